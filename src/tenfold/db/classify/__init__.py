"""Whether a statement may run on a replica. See `classify`."""

from tenfold.db.classify.catalogue import Catalogue
from tenfold.db.classify.classifier import Classifier, classify
from tenfold.db.classify.verdict import LEARNED, READ, Verdict

__all__ = [
    "LEARNED",
    "READ",
    "Catalogue",
    "Classifier",
    "Verdict",
    "classify",
]
