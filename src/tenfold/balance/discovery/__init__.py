"""Where endpoints come from: a list, a watched file, the DNS, Kubernetes, a function. A module each."""

from __future__ import annotations

from tenfold.balance.discovery.base import Discovery
from tenfold.balance.discovery.called import FromCallable
from tenfold.balance.discovery.declared import read_endpoints
from tenfold.balance.discovery.dns import FromDNS
from tenfold.balance.discovery.file import FromFile
from tenfold.balance.discovery.kubernetes import FromKubernetes
from tenfold.balance.discovery.listed import FromList

__all__ = ["Discovery", "FromCallable", "FromDNS", "FromFile", "FromKubernetes", "FromList", "read_endpoints"]
