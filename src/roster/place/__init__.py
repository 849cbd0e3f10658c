"""place: experts onto devices, from recorded routes, for engines that serve a mixture with expert parallelism.

    routes = roster.offload.read_routes("routes")
    found = exflow(traffic_of(routes), Machine(devices=8, nodes=2))
    found.placement.physical_to_logical()        # [layers, slots], as EPLB-style engines read it

`traffic.py` counts, `machine.py` says what crossing costs, `placement.py` is the result, `cost.py` judges it (on
held-out routes); `simple.py`, `exflow.py`, `moetuner.py` find one, `replicas.py` adds copies of hot experts, and
`permuting.py` writes a checkpoint whose experts lie in that order, for engines without maps.
"""
