"""The search for secrets finds one that was planted, in each place and in every form."""

from __future__ import annotations

import html
import json
import logging
import sys
import warnings
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import httpx
import pytest
from evidence import Evidence, gathered
from support import BASE_URL

from revos import RevosError

SECRET = 's3cr3t/Zq+with&=odd "chars"\\ünd%41-0123456789'
BASIC = f"client-7:{quote_plus(SECRET)}".encode()

FORMS = {
    "raw": SECRET,
    "percent": quote(SECRET, safe=""),
    "percent but for slashes": quote(SECRET),
    "lower percent": quote(SECRET, safe="").lower(),
    "form": quote_plus(SECRET),
    "basic": b64encode(BASIC).decode(),
    "raw basic": b64encode(f"client-7:{SECRET}".encode()).decode(),
    "base64url": urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
    "base64url of basic": urlsafe_b64encode(BASIC).decode(),
    "json": json.dumps(SECRET),
    "json in UTF-8": json.dumps(SECRET, ensure_ascii=False),
    "html": html.escape(SECRET),
    "repr": repr(SECRET),
    "repr of bytes": repr(SECRET.encode()),
    "cut": f"{SECRET[:30]}…",
    "end": f"…{SECRET[-28:]}",
}


PLACES = {}


def found_at(place):
    """Where the search says it is: not only in some frame that had to have it too."""

    def take(plant):
        PLACES[plant.__name__] = (plant, place)
        return plant

    return take


class Quiet:
    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        return (bytes, (self.text, "utf-8"))

    def __deepcopy__(self, memo):
        return None


class Refusing(Quiet):
    def __reduce__(self):
        raise TypeError(f"not {self.text}")


@found_at("log planted")
def plant_in_log_message(evidence, text):
    logging.getLogger("planted").debug("it is " + text.replace("%", "%%"))  # noqa: G003


@found_at("log planted.child args")
def plant_in_log_arguments(evidence, text):
    logging.getLogger("planted.child").debug("%s", {"headers": [text]})


@found_at("log planted more")
def plant_in_log_extra(evidence, text):
    logging.getLogger("planted").debug("nothing", extra={"more": text})


@found_at("log planted exception args")
def plant_in_exc_info(evidence, text):
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("planted").exception("it failed")


@found_at(f"log planted exception frames {__name__}:fail header")
def plant_in_variables_of_exc_info(evidence, text):
    def fail(header):
        raise ValueError("fine")

    try:
        fail(text)
    except ValueError as error:
        logging.getLogger("planted").debug("it failed", exc_info=error)


@found_at("log planted.silent")
def plant_in_log_of_a_silenced_logger(evidence, text):
    logging.getLogger("planted.silent").debug("%s", text)


@found_at("exception")
def plant_in_exception_text(evidence, text):
    evidence.add_error(RevosError(text))


@found_at("exception args")
def plant_in_exception_argument(evidence, text):
    error = RevosError("fine")
    error.args = ("fine", {"form": text})
    evidence.add_error(error)


@found_at("exception response")
def plant_in_exception_attribute(evidence, text):
    error = RevosError("fine")
    error.response = text
    evidence.add_error(error)


@found_at("exception __notes__")
def plant_in_note(evidence, text):
    error = RevosError("fine")
    error.add_note(text)
    evidence.add_error(error)


@found_at("exception traceback")
def plant_in_cause(evidence, text):
    error = RevosError("fine")
    error.__cause__ = ValueError("fine")
    error.__cause__.__cause__ = ValueError(text)
    evidence.add_error(error)


@found_at("exception traceback")
def plant_in_context(evidence, text):
    error = RevosError("fine")
    error.__context__ = ValueError(text)
    evidence.add_error(error)


@found_at("exception args")
def plant_in_hidden_context(evidence, text):
    error = RevosError("fine")
    error.__context__ = ValueError(text)
    error.__suppress_context__ = True
    evidence.add_error(error)


@found_at(f"exception frames {__name__}:fail header")
def plant_in_variable_of_a_frame(evidence, text):
    def fail(header):
        raise RevosError("fine")

    try:
        fail(text)
    except RevosError as error:
        evidence.add_error(error)


@found_at(f"exception frames {__name__}:fail header")
def plant_in_variable_of_a_frame_of_the_cause(evidence, text):
    def fail(header):
        raise ValueError("fine")

    try:
        try:
            fail(text)
        except ValueError as cause:
            raise RevosError("fine") from cause
    except RevosError as error:
        evidence.add_error(error)


@found_at("exception args")
def plant_in_group_member(evidence, text):
    evidence.add_error(ExceptionGroup("fine", [ValueError(text)]))


@found_at("exception args")
def plant_in_cause_of_a_group_member(evidence, text):
    member = ValueError("fine")
    member.__cause__ = ValueError(text)
    evidence.add_error(ExceptionGroup("fine", [ExceptionGroup("fine", [member])]))


@found_at("warning")
def plant_in_warning(evidence, text):
    warnings.warn(text, ResourceWarning, stacklevel=1)


@found_at("repr")
def plant_in_repr(evidence, text):
    evidence.add("repr", [text])


@found_at("repr")
def plant_in_str(evidence, text):
    evidence.add("repr", httpx.URL("http://127.0.0.1", params={"a": text}))


@found_at("repr Planted")
def plant_in_live_object(evidence, text):
    members = {"__module__": "revos.made_up", "__repr__": lambda self: text}
    planted = type("Planted", (), members)()
    evidence.add_objects_of("revos", but="revos.testing")
    del planted


@found_at("pickle")
def plant_in_pickle(evidence, text):
    # Its repr and its copies show nothing.
    evidence.add_pickle(Quiet(text))


@found_at("pickle")
def plant_in_pickle_that_is_refused(evidence, text):
    evidence.add_pickle(Refusing(text))


@found_at("status")
def plant_in_status(evidence, text):
    evidence.add("status", json.dumps({"last_error": text}))


@found_at("printed")
def plant_on_stdout(evidence, text):
    sys.stdout.write(text)


@found_at("printed")
def plant_on_stderr(evidence, text):
    sys.stderr.write(text)


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("plant", "place"), PLACES.values(), ids=PLACES)
def test_a_leak_planted_on_purpose_is_found(plant, place, text):
    silent = logging.getLogger("planted.silent")
    silent.propagate, silent.disabled = False, True

    with gathered() as evidence:
        plant(evidence, text)

    assert place in evidence.places_of(SECRET)
    assert (silent.propagate, silent.disabled) == (False, True)


def test_a_place_says_what_went_on():
    evidence = Evidence()
    evidence.during = "an outage: "
    evidence.add("status", SECRET)

    assert evidence.places_of(SECRET) == {"an outage: status"}


def test_nothing_is_found_where_nothing_is():
    evidence = Evidence()
    evidence.add("log", "token 4f9a2c77 of client-7 at " + BASE_URL)

    assert evidence.places_of(SECRET) == set()
