"""Measures tapefuse beside its peers in one run, and writes docs/performance.md from what it measured.

    make bench                                # everything, then docs/performance.md anew
    make bench WORKLOADS=dispatch,mlp SIZES=S # a part, printed only

A workload is one file in `workloads`; a peer is one record in `frameworks` and one line of `requirements.txt`.
`gradients` and `training` make programs of formulas and losses in every framework; `marks` says what is asked.
"""
