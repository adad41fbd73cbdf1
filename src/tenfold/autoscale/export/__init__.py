"""The same policy elsewhere: Kubernetes, KEDA and Azure Container Apps.

::

    from tenfold.autoscale import ScalePolicy, Target
    from tenfold.autoscale.export import Workload, kubernetes, parse

    policy = ScalePolicy(least=2, most=8, targets=(Target.in_flight(20), Target.cpu("70%", request=0.5)))
    exported = kubernetes(Workload(name="shop", image="registry.example/shop:1", cpu=0.5), policy)
    print(exported.text)
    assert parse(exported.documents) == policy
"""

from tenfold.autoscale.export.azure import azure
from tenfold.autoscale.export.keda import keda
from tenfold.autoscale.export.kubernetes import kubernetes
from tenfold.autoscale.export.read import parse
from tenfold.autoscale.export.workload import Export, Workload, requests

__all__ = ["Export", "Workload", "azure", "keda", "kubernetes", "parse", "requests"]
