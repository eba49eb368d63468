"""What is measured: one function per workload, in the order in which they run."""
