"""A file of a certificate, a key or a token that is no such file is named, with the way out; a good one is taken."""

from __future__ import annotations

import pytest

from cutset.codegen.runtime import ConfigError
from cutset.codegen.runtime.credentials import check_tls, read_token
from cutset.codegen.runtime.main import main
from cutset.codegen.runtime.settings import ServerSettings
from tests.certificates import make_certificate, openssl


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files by what is in them."""
    place = tmp_path_factory.mktemp("tls")
    cert, key = make_certificate(place)
    _, other = make_certificate(place, "other")
    weak_cert, rsa_key = make_certificate(place, "weak", "rsa")
    encrypted = place / "encrypted key.pem"
    openssl("pkey", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", str(encrypted))
    made = {"cert": cert, "key": key, "other": other, "weak_cert": weak_cert, "rsa_key": rsa_key, "encrypted": encrypted}
    contents = {"words": b"hello\n", "empty": b"", "bytes": b"\xff\xfe\x00", "half": cert.read_bytes()[:200]}
    for name, content in contents.items():
        made[name] = place / f"{name}.pem"
        made[name].write_bytes(content)
    made["both"] = place / "both.pem"
    made["both"].write_bytes(cert.read_bytes() + key.read_bytes())
    return made | {"folder": place, "missing": place / "nowhere.pem"}


@pytest.mark.parametrize(("cert", "key"), [("cert", "key"), ("both", "both"), ("both", "key")])
def test_a_pair_that_fits_is_taken(files, cert, key):
    check_tls(files[cert], files[key])


@pytest.mark.parametrize(
    ("cert", "key", "wrong", "what"),
    [
        ("words", "key", "words", "no certificate in PEM form"),
        ("empty", "key", "empty", "no certificate in PEM form"),
        ("bytes", "key", "bytes", "no certificate in PEM form"),
        ("half", "key", "half", "no certificate in PEM form"),
        ("key", "cert", "key", "no certificate in PEM form"),
        ("missing", "key", "missing", "there is no file"),
        ("folder", "key", "folder", "no regular file"),
        ("cert", "words", "words", "no private key in PEM form"),
        ("cert", "empty", "empty", "no private key in PEM form"),
        ("cert", "cert", "cert", "no private key in PEM form"),
        ("cert", "missing", "missing", "there is no file"),
        ("cert", "folder", "folder", "no regular file"),
        ("cert", "other", "other", "does not belong to the certificate in"),
        ("cert", "rsa_key", "rsa_key", "does not belong to the certificate in"),
        ("cert", "encrypted", "encrypted", "is encrypted"),
        ("weak_cert", "rsa_key", "weak_cert", "key too small"),
    ],
)
def test_the_file_at_fault_is_named(files, cert, key, wrong, what):
    with pytest.raises(ConfigError, match=what) as caught:
        ServerSettings(tls_certificate=files[cert], tls_key=files[key])
    assert str(files[wrong]) in caught.value.what
    assert caught.value.hint


@pytest.mark.parametrize("given", ["tls_certificate", "tls_key"])
def test_half_a_pair_is_refused(files, given):
    with pytest.raises(ConfigError, match="both --tls-cert and --tls-key"):
        ServerSettings(**{given: files["both"]})


def test_a_path_in_the_way_out_is_quoted(files):
    with pytest.raises(ConfigError) as caught:
        check_tls(files["cert"], files["encrypted"])
    assert f"'{files['encrypted']}'" in caught.value.hint


@pytest.mark.parametrize("content", [b"secret", b"secret\n", b"  secret \r\n", b"~!a+/=._-", b"x" * 4096])
def test_a_token_is_what_a_header_can_carry(tmp_path, content):
    path = tmp_path / "token"
    path.write_bytes(content)
    assert read_token(path) == content.decode().strip()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\xff\xfea", "not ASCII"),
        ("é".encode(), "not ASCII"),
        (b"one\ntwo\n", "a blank or a control character"),
        (b"one two", "a blank or a control character"),
        (b"a\x00b", "a blank or a control character"),
        (b"x" * 4097, "4097 characters"),
    ],
)
def test_a_token_that_no_header_carries_is_refused(tmp_path, capsys, content, what):
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=what) as caught:
        read_token(path)
    assert str(path) in caught.value.what
    assert caught.value.hint
    assert main(["--token-file", str(path)], tmp_path) == 1
    assert capsys.readouterr().err == f"error: {caught.value}\n"


def test_a_device_is_not_read(tmp_path):
    with pytest.raises(ConfigError, match="/dev/zero is no regular file"):
        read_token(type(tmp_path)("/dev/zero"))


def test_a_file_of_another_user_is_named(tmp_path, monkeypatch):
    """Whoever runs the tests may be allowed to read everything, so the refusal of the system is played."""
    path = tmp_path / "token"
    path.write_text("secret")

    def refuse(_path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied") as caught:
        read_token(path)
    assert str(path) in caught.value.what
