"""``tenfold serve --export``: the options of the command are the policy that is exported."""

import pytest
import yaml

from tenfold._core.errors import MisuseError
from tenfold.autoscale import Behavior, ScalePolicy, Target
from tenfold.autoscale.export import parse
from tenfold.cli.serve import serve


def test_the_policy_of_the_command_line_is_exported(capsys):
    code = serve(
        "shop.main:app", workers="2..8", target_inflight=20, target_cpu="70%", export="kubernetes", image="shop:1",
        drain_timeout="45s",
    )  # fmt: skip
    text = capsys.readouterr().out
    assert code == 0
    documents = list(yaml.safe_load_all(text))
    kinds = {each["kind"]: each for each in documents}
    assert set(kinds) == {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
    assert kinds["Deployment"]["metadata"]["name"] == "shop"
    targets = (Target.in_flight(20), Target.cpu("70%"))
    local = ScalePolicy(least=2, most=8, targets=targets, behavior=Behavior.local())
    exported = parse(documents)
    assert (exported.least, exported.most, exported.behavior) == (2, 8, local.behavior)
    assert {target.name: target.target for target in exported.targets} == {"in_flight": 20, "cpu": 0.7}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"workers": "4", "export": "kubernetes", "image": "shop:1"}, "expected a range of workers"),
        ({"workers": "2..8", "export": "kubernetes"}, "expected --image"),
        ({"workers": "2..8", "image": "shop:1"}, "without --export"),
        ({"workers": "2..8", "schedule_zone": "Europe/Berlin"}, "without a schedule"),
    ],
)
def test_what_makes_no_sense(given, says):
    with pytest.raises(MisuseError, match=says):
        serve("shop:app", **given)
