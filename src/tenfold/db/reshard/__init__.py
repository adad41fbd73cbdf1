"""Moving buckets between shards while the application writes. See `Resharding`."""

from tenfold.db.reshard.errors import Behind, CannotMove, Different, Interrupted, ReshardError
from tenfold.db.reshard.options import BucketsSwitched, Progress, ReshardOptions
from tenfold.db.reshard.reshard import Resharding, Verified
from tenfold.db.reshard.steps import Course, Leg, Phase, Reshard

__all__ = [
    "Behind",
    "BucketsSwitched",
    "CannotMove",
    "Course",
    "Different",
    "Interrupted",
    "Leg",
    "Phase",
    "Progress",
    "Reshard",
    "ReshardError",
    "ReshardOptions",
    "Resharding",
    "Verified",
]
