"""One file per workload; `benchmarks.case` says what is in it. To add one, write its file and name it here."""

WORKLOADS = ("dispatch", "digits", "mlp", "chain")  # in the order of the tables
