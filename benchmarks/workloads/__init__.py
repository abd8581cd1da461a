"""One file per workload; `benchmarks.case` says what is in it. To add one, write its file and name it here."""

WORKLOADS = (  # in the order of the tables
    "dispatch",
    "rosen",
    "rosen_fit",
    "logreg",
    "ewchain",
    "reductions",
    "xent",
    "mlp",
    "tanh_chain",
    "chain",
    "depth",
)
