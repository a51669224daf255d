"""No secret gets through `redact` or `strip`, however it is written (P10)."""

import doctest
import html
import json
import re
import socket
import ssl
import traceback
from urllib.parse import quote, quote_plus

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revos import redact as redact_module
from revos.errors import RevosConfigurationError
from revos.redact import LONGEST_TEXT, endpoint_of, forget_values, redact, strip, without_token

SECRET = "s3/cr t+\"é'\\&%!~*"

WRITTEN = {
    "raw": SECRET,
    "percent-encoded": quote(SECRET, safe=""),
    "percent-encoded but for slashes": quote(SECRET),
    "percent-encoded in lower case": re.sub("%..", lambda m: m[0].lower(), quote(SECRET, safe="")),
    "form-encoded": quote_plus(SECRET),
    "encodeURIComponent": quote(SECRET, safe="!*'()"),
    "encodeURI": quote(SECRET, safe=";,/?:@&=+$!*'()#"),
    "URLSearchParams": quote_plus(SECRET, safe="*").replace("~", "%7E"),
    "JSON": json.dumps(SECRET)[1:-1],
    "JSON in UTF-8": json.dumps(SECRET, ensure_ascii=False)[1:-1],
    "JSON by PHP": json.dumps(SECRET)[1:-1].replace("/", "\\/"),
    "HTML": html.escape(SECRET),
    "repr": repr(SECRET)[1:-1],
    "ascii": ascii(SECRET)[1:-1],
    "repr of bytes": repr(SECRET.encode())[2:-1],
}


def visible(text):
    return "".join(c for c in text if c.isprintable() and not c.isspace())


def chain_of(error):
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_token_is_taken_out_of_a_text_that_goes_on_to_be_used_in_every_form(written):
    assert without_token(f"a {written}\n b", SECRET) == "a ***\n b"


def test_of_two_forms_of_a_token_the_longer_one_is_taken_out():
    token = "\\" + "a" * 20

    assert without_token(json.dumps(token), token) == '"***"'


def test_a_token_that_is_too_short_to_be_known_from_other_words_stays():
    assert without_token("a short-token", "short-token") == "a short-token"


@pytest.mark.parametrize("form", WRITTEN.values(), ids=WRITTEN.keys())
def test_a_secret_is_masked_in_every_form(form):
    assert redact(f"no '{form}' here", [SECRET]) == "no '***' here"


def test_a_secret_with_a_quote_is_masked_where_a_repr_escapes_it():
    assert redact(repr('say "it\'s s3cret"'), ["it's s3cret"]) == "'say \"***\"'"


@pytest.mark.parametrize("gap", ["\n", "\x00", "\x1b", "\u200b", "\r\n\t ", "\ud800"])
def test_a_secret_with_something_unprintable_inside_is_masked(gap):
    assert redact(f"key: abc{gap}def.", ["abcdef"]) == "key: ***."


def test_of_overlapping_secrets_no_end_is_left_over():
    assert redact("<abcdef>", ["abcd", "cdef"]) == "<***>"
    assert redact("<ababa>", ["aba"]) == "<***>"


def test_the_longest_secret_is_masked_as_a_whole():
    assert redact("pass password", ["pass", "password"]) == "*** ***"


@pytest.mark.parametrize("secrets", [[], [""], ["\n"], ["", " "]])
def test_an_empty_secret_masks_nothing(secrets):
    assert redact("a text", secrets) == "a text"


def test_what_does_not_print_becomes_one_space():
    assert redact(" one\r\n\x00two\x1b[31m ", []) == "one two [31m"


def test_a_text_is_cut():
    assert redact("x" * 10_000_000, []) == "x" * LONGEST_TEXT


@pytest.mark.parametrize("before", range(LONGEST_TEXT - 8, LONGEST_TEXT + 1))
def test_the_cut_leaves_no_part_of_a_secret(before):
    assert "s" not in redact("x" * before + "secret" + "y" * 600, ["secret"])


@pytest.mark.parametrize("filler", ["***", "\x00", "secret"])
def test_a_secret_at_the_end_of_what_is_read_is_not_shown_in_part(filler):
    text = filler * 20_000
    for shift in range(6):
        assert "s" not in redact("x" * shift + text + "secret" * 9_000, ["secret"])


def test_a_secret_longer_than_what_is_read_is_not_shown():
    assert redact("ab" * 50_000, ["ab" * 50_000]) == ""


def test_a_secret_is_masked_where_all_that_is_read_is_its_beginning():
    secret = "ab" * 50_000

    assert redact(secret[:8_192], [secret]) == "***"


def test_a_secret_with_lone_surrogates_does_no_harm():
    assert redact("key: abc", ["abc\udcff"]) == "key: ***"


LETTERS = st.characters(exclude_characters="*", codec="utf-8")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_secret_survives_in_any_form_or_wrapping(data):
    secrets = data.draw(st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=1, max_size=3))
    forms = [form for secret in secrets for form in redact_module._forms(secret) if visible(form)]
    pieces = st.one_of(st.text(max_size=20), st.sampled_from(forms or [""]), st.just("\n"))
    text = "".join(data.draw(st.lists(pieces, max_size=30)))
    gap = data.draw(st.sampled_from(["", "\n", "\x07"]))

    masked = redact(gap.join(text), secrets)

    assert len(masked) <= LONGEST_TEXT
    assert masked.isprintable()
    assert not [form for form in forms if "*" not in form and visible(form) in visible(masked)]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://auth.example/token?key=1#f", "https://auth.example/token"),
        ("https://user:pw@auth.example:8443/t", "https://auth.example:8443/t"),
        ("http://[::1]:80/t", "http://[::1]:80/t"),
        ("http://[::1", "(not a URL)"),
        ("javascript:alert(1)", "(not a URL)"),
        ("", "(not a URL)"),
    ],
)
def test_an_endpoint_is_shown_without_credentials_and_query(url, shown):
    assert endpoint_of(url) == shown


def a_refused_connection():
    """What httpx raises, with all that it holds."""
    with socket.socket() as nobody, httpx.Client(trust_env=False) as client:
        nobody.bind(("127.0.0.1", 0))  # Bound and not listening: it refuses.
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        with pytest.raises(httpx.ConnectError) as caught:
            client.post(url, headers={"Authorization": f"Bearer {SECRET!a}"}, data={"s": SECRET})
    return caught.value


def test_a_transport_error_keeps_type_and_text_and_loses_frames_and_request():
    error = a_refused_connection()

    stripped = strip(error)

    assert type(stripped) is httpx.ConnectError
    assert str(stripped) == str(error)
    assert stripped._request is None
    chain = chain_of(stripped)
    assert len(chain) > 1
    assert all(link.__traceback__ is None for link in chain)
    assert not [a for link in chain for a in link.args if isinstance(a, BaseException)]


def test_the_error_itself_stays_as_it_was():
    error = a_refused_connection()

    strip(error)

    assert error.__traceback__ is not None
    assert error.request is not None


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "key=hunter22"),
        FileNotFoundError(2, "No such file", "hunter22"),
        ssl.SSLError(1, "[SSL] hunter22"),
        KeyError("hunter22"),
        ValueError(b"hunter22", ["hunter22"]),
        RuntimeError(ValueError("hunter22")),
        UnicodeDecodeError("utf-8", b"hunter22", 0, 1, "hunter22"),
        json.JSONDecodeError("bad", '{"a": hunter22}', 6),
        RevosConfigurationError("hunter22"),
        httpx.HTTPStatusError(
            "hunter22", request=httpx.Request("GET", "http://a/"), response=httpx.Response(400)
        ),
        ExceptionGroup("hunter22", [OSError(1, "hunter22"), ExceptionGroup("x", [KeyError("y")])]),
        BaseExceptionGroup("all", [KeyboardInterrupt("hunter22")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_any_type_is_masked(error):
    error.add_note("hunter22")
    error.anything = "hunter22"

    stripped = strip(error, ["hunter22"])

    assert type(error).__name__ in {type(stripped).__name__, str(stripped).partition(":")[0]}
    assert "hunter22" not in f"{stripped!r} {stripped} {stripped.args!r} {vars(stripped)!r}"
    members = getattr(stripped, "exceptions", ())
    assert "hunter22" not in "".join(map(repr, members))
    assert not hasattr(stripped, "__notes__")


def test_an_error_that_needs_more_than_its_arguments_keeps_its_type():
    request = httpx.Request("GET", "http://a/")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(400))

    stripped = strip(error)

    assert (type(stripped), str(stripped)) == (httpx.HTTPStatusError, "no")


def test_an_error_that_no_one_can_build_keeps_its_name_and_text():
    stripped = strip(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))

    assert type(stripped) is Exception
    assert str(stripped).startswith("UnicodeDecodeError: 'utf-8' codec can't decode")


def test_a_group_stays_a_group_of_masked_errors():
    stripped = strip(ExceptionGroup("two", [OSError(5, "hunter22"), KeyError("b")]), ["hunter22"])

    assert type(stripped) is ExceptionGroup
    assert list(map(repr, stripped.exceptions)) == ["OSError(5, '***')", "KeyError('b')"]


class CodedError(Exception):
    def __init__(self, text):
        super().__init__(text)
        self.code = {"hunter22": 22}[text]


class ReplacedError(Exception):
    def __new__(cls, text):
        return f"no exception: {text}"


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (CodedError("hunter22"), (CodedError, "***")),
        (Exception.__new__(ReplacedError, "hunter22"), (Exception, "ReplacedError: ***")),
    ],
)
def test_a_type_that_does_odd_things_when_it_is_made_is_masked(error, kept):
    stripped = strip(error, ["hunter22"])

    assert (type(stripped), str(stripped)) == kept


def test_a_loop_in_the_chain_is_cut():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first

    assert [str(link) for link in chain_of(strip(first))] == ["first", "second"]


def test_a_loop_behind_the_first_of_the_chain_is_cut_too():
    first, second, third = ValueError("first"), ValueError("second"), ValueError("third")
    first.__cause__, second.__cause__, third.__cause__ = second, third, second

    assert [str(link) for link in chain_of(strip(first))] == ["first", "second", "third"]
    forget_values(first)


def test_a_long_chain_is_no_recursion():
    error = ValueError("0")
    for number in range(1, 5_000):
        error, error.__cause__ = ValueError(str(number)), error

    assert str(strip(error)) == "4999"


def test_the_chain_says_how_its_links_follow():
    cause, context, hidden = OSError("cause"), OSError("context"), OSError("hidden")
    error = ValueError("error")
    error.__cause__, cause.__context__ = cause, context
    context.__context__, context.__suppress_context__ = hidden, True

    stripped = strip(error)

    assert str(stripped.__cause__) == "cause"
    assert str(stripped.__cause__.__context__) == "context"
    assert stripped.__cause__.__cause__ is None
    assert stripped.__cause__.__context__.__context__ is None


def test_what_hides_behind_an_error_without_a_text_comes_along():
    error = ConnectionError()
    error.__context__, error.__suppress_context__ = OSError("the handshake failed"), True

    stripped = strip(error)

    assert (type(stripped), str(stripped)) == (ConnectionError, "")
    assert str(stripped.__context__) == "the handshake failed"


def test_arguments_stay_what_they_are_where_they_tell_nothing_and_errors_among_them_are_told():
    error = ValueError(None, 7, OSError("key=hunter22"), b"hunter22", ["hunter22"])

    assert strip(error, ["hunter22"]).args == (None, 7, "key=***", "bytes", "list")


def test_secrets_that_can_be_read_once_are_masked_in_the_whole_chain():
    error = ValueError("hunter22")
    error.__cause__ = OSError("hunter22")

    assert list(map(str, chain_of(strip(error, iter(["hunter22"]))))) == ["***", "***"]


def raised(secret):
    """An error whose frame holds a secret."""
    try:
        raise ValueError("fine")
    except Exception as caught:  # noqa: BLE001 - it is looked at afterwards
        return caught


def linked_by_cause(link):
    error = ValueError("fine")
    error.__cause__ = link
    link.__context__ = error  # A loop.
    return error


def linked_by_context(link):
    error = ValueError("fine")
    error.__context__ = link
    link.__cause__ = error
    return error


@pytest.mark.parametrize(
    "linked",
    [linked_by_cause, linked_by_context, lambda link: ExceptionGroup("fine", [link])],
    ids=["cause", "context", "group"],
)
def test_values_of_all_that_hangs_on_an_error_are_forgotten(linked):
    link = raised("hunter22")

    forget_values(linked(link))

    assert [frame.f_locals for frame, _ in traceback.walk_tb(link.__traceback__)] == [{}]


def test_an_error_that_leaves_as_it_is_keeps_its_lines_and_forgets_its_values():
    def fail(header):
        raise KeyError("fine")

    def fail_in_a_group(form):
        try:
            fail("hunter22")
        except KeyError as cause:
            raise ExceptionGroup("fine", [ValueError("fine")]) from cause

    try:
        try:
            fail_in_a_group("hunter22")
        except ExceptionGroup:
            fail("hunter22")
    except KeyError as error:
        forget_values(error)
        caught = error

    told = traceback.TracebackException.from_exception(caught, capture_locals=True)
    text = "".join(told.format())
    assert "hunter22" not in "".join(line for line in text.splitlines() if " = " in line)
    assert text.count(", in fail\n") == 2
    assert text.count(", in fail_in_a_group\n") == 2


def test_the_examples_run():
    assert doctest.testmod(redact_module).failed == 0
