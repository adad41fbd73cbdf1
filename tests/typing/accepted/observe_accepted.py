"""What must type-check: `tenfold.observe` as a service uses it."""

from opentelemetry import metrics

from tenfold.balance import Balancer, Endpoint
from tenfold.cache import Cache
from tenfold.observe import (
    BalancersCollector,
    CachesCollector,
    PoliciesCollector,
    instrument_balancers,
    instrument_caches,
    instrument_policies,
)
from tenfold.resilience import Policy, Registry, load_policies

caches = [Cache("shop"), Cache("prices")]
registry: Registry[Policy] = Registry()
files = load_policies("policies.toml", registry=registry)
balancers = [Balancer([Endpoint("a", "http://10.0.0.1:8000")], name="stock")]

BalancersCollector(balancers)
CachesCollector(caches)
PoliciesCollector(registry, files=[files])

instrument_balancers(balancers)
instrument_balancers(balancers, meter_provider=metrics.get_meter_provider())
instrument_caches(caches)
instrument_caches(caches, meter_provider=metrics.get_meter_provider())
instrument_policies()
instrument_policies(registry, files=[files], meter_provider=metrics.get_meter_provider())
