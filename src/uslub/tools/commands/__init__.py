"""The commands of `uslub`: arguments, one call, an exit status.

Each module has ``add_arguments(parser)`` and ``run(args) -> int`` (0: all is well,
1: something is wrong, 2: asked in a way that cannot be answered).
"""
