"""An exported policy read back, whichever of the three it was exported to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tenfold._core.errors import MisuseError
from tenfold.autoscale.export.azure import policy_of as azure_policy
from tenfold.autoscale.export.keda import policy_of as keda_policy
from tenfold.autoscale.export.kubernetes import policy_of as kubernetes_policy
from tenfold.autoscale.policy import ScalePolicy


def parse(documents: Iterable[Mapping[str, Any]]) -> ScalePolicy:
    """The policy in ``documents`` (`Export.documents`, or what a YAML reader makes of `Export.text`), as its autoscaler
    sees it.

    KEDA and Azure share a sum out where an HPA takes a mean, and Azure has a fixed behaviour; so what comes back is
    what will be decided by there, not the policy that was exported. The pause after a deployment is nowhere. Made for
    what tenfold has written; for another's documents it need not work.

    Raises `MisuseError` where there is no autoscaler of ours in them.
    """
    found = list(documents)
    kinds = {str(document.get("kind", "")) for document in found}
    if "HorizontalPodAutoscaler" in kinds:
        return kubernetes_policy(found)
    if "ScaledObject" in kinds:
        return keda_policy(found)
    if any("template" in document.get("properties", {}) for document in found):
        return azure_policy(found)
    named = ", ".join(sorted(kinds - {""})) or "none"
    raise MisuseError(
        f"export: expected a HorizontalPodAutoscaler, a ScaledObject or a Container App, got documents of kind {named}"
    )
