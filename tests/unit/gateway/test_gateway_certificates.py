"""Certificates are chosen by name, say their own names, and are wrong in sentences; faults say which check failed."""

import ssl

import pytest
import trustme

from tenfold._core.errors import MisuseError
from tenfold.balance.checks import HttpCheck, TcpCheck
from tenfold.gateway.config.options import Certificate, Gateway
from tenfold.gateway.config.pool import UpstreamTls
from tenfold.gateway.engine.certificates import Certificates, names_of
from tenfold.gateway.engine.upstream_tls import checked, context_of, fault_of_handshake
from tenfold.gateway.framing import Forwarding

HOSTS = {
    "one": ["shop.example", "*.shop.example", "10.0.0.1", "::1"],
    "many": [f"host-{n}.example" for n in range(300)],  # lengths of two bytes and more in its DER
    "other": ["other.example"],
    "none": ["10.0.0.2"],
}


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name, hosts in HOSTS.items():
        cert = ca.issue_cert(*hosts)
        cert.private_key_pem.write_to_path(folder / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return folder


def of(at, name, *names, key=None):
    return Certificate(certificate=f"{at}/{name}.pem", key=f"{at}/{key or name}.key", names=names)


def made(*certificates, least="1.2"):
    return Certificates(Gateway(listen="127.0.0.1:0", tls=certificates, tls_least=least))


@pytest.mark.parametrize("name", HOSTS)
def test_a_certificate_says_the_names_it_is_for(at, name):
    assert list(names_of(f"{at}/{name}.pem")) == [each for each in HOSTS[name] if "example" in each]


def test_a_name_is_looked_up_exactly_then_by_one_label_then_the_first(at):
    certificates = made(of(at, "other"), of(at, "one"), of(at, "many", "x.shop.example", "*.more.example"))
    first, one, many = certificates.context, certificates.choose("shop.example"), certificates.choose("x.shop.example")
    assert len({first, one, many}) == 3
    expected = {
        None: first, "": first, "other.example": first, "SHOP.example.": one, "a.shop.example": one,
        "a.b.shop.example": first, "X.Shop.Example": many, "y.more.example": many, "more.example": first,
        "host-1.example": first,  # what the configuration names is all it is for
        "nowhere": first,
    }  # fmt: skip
    assert {name: certificates.choose(name) for name in expected} == expected


def test_the_oldest_version_is_that_of_the_configuration(at):
    assert made(of(at, "one"), least="1.3").context.minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.mark.parametrize(
    ("name", "key", "sentence"),
    [
        ("one", "other", "the key .*other.key is not that of the certificate .*one.pem"),
        ("gone", None, "expected files that can be read, got .*gone.pem"),
        ("ca", "one", "is not that of"),
    ],
)
def test_what_is_wrong_is_told_with_the_file(at, name, key, sentence):
    with pytest.raises(MisuseError, match=sentence):
        made(of(at, name, key=key))


def test_only_the_first_can_do_without_names(at):
    assert made(of(at, "none")).names == ()
    with pytest.raises(MisuseError, match=r"expected names for .*none\.pem"):
        made(of(at, "one"), of(at, "none"))


def test_a_key_with_a_password_is_refused_and_asks_nobody(at, tmp_path):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((at / "one.key").read_bytes(), None)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tmp_path / "k.pem").write_bytes(secret)
    with pytest.raises(MisuseError, match="without a password"):
        made(Certificate(certificate=f"{at}/one.pem", key=f"{tmp_path}/k.pem"))


def test_a_pool_checks_its_endpoints_as_it_speaks_to_them(at):
    options = UpstreamTls(ca=f"{at}/ca.pem", name="app.internal")
    context = context_of(options, "pool app tls")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    check = checked(HttpCheck(), context, options)
    assert (check.tls, check.host) == (context, "app.internal")
    assert checked(HttpCheck(host="other"), context, options).host == "other"
    tcp = checked(TcpCheck(), context, options)
    assert (tcp.tls.verify_mode, tcp.tls.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert checked(None, context, options) is None
    assert checked(HttpCheck(), None, None) == HttpCheck()
    loose = context_of(UpstreamTls(verify=False), "pool app tls")
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("file", ["none.key", "gone.pem"])
def test_authorities_that_cannot_be_read_are_told(at, file):
    with pytest.raises(MisuseError, match="pool app tls: expected a"):
        context_of(UpstreamTls(ca=f"{at}/{file}"), "pool app tls")


def test_a_fault_says_what_failed():
    assert fault_of_handshake(ConnectionResetError("x")).reason == "tls_handshake"
    assert fault_of_handshake(ssl.SSLError(1, "[SSL: NO_PROTOCOLS_AVAILABLE] no")).status == 502


@pytest.mark.parametrize("name", ["Host", "traceparent", "X-Forwarded-For", "a b", "ä"])
def test_the_id_is_in_no_header_that_means_something_else(name):
    with pytest.raises(MisuseError, match="a header that has no other meaning"):
        Forwarding(request_id_name=name)


@pytest.mark.parametrize("hops", [0, -1, 1.5, True])
def test_hops_are_one_or_more(hops):
    with pytest.raises(MisuseError, match="forwarding hops"):
        Forwarding(hops=hops)
