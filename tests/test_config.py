"""What may be configured, and what is said about the rest."""

import copy
import math
import pickle

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from hypothesis import given, settings
from hypothesis import strategies as st

from revos.config import (
    Config,
    GatewayConfig,
    LoggingConfig,
    ModelConfig,
    TokenConfig,
    match_key,
)
from revos.errors import RevosConfigurationError

SECRET = "s3cret-HUSH"
GATEWAY = {
    "client_id": "app",
    "client_secret": SECRET,
    "token_url": "https://login.example/token",
    "base_url": "https://gateway.example/v1",
}


def gateway(**settings):
    return GatewayConfig(**{**GATEWAY, **settings})


def refusal(kind, **settings):
    with pytest.raises(RevosConfigurationError) as caught:
        kind(**settings)
    return caught.value


# Defaults and kinds of values.


def test_defaults_are_those_of_the_contract():
    config = Config(revos=gateway())

    revos, token, logging = config.revos, config.token, config.logging
    assert (revos.auth_method, revos.fallback_auth_method) == (
        "client_secret_post",
        "client_secret_basic",
    )
    assert (revos.token_buffer_minutes, revos.max_retries, revos.request_timeout) == (5, 3, 30)
    assert (revos.assertion_algorithm, revos.default_lifetime_seconds) == ("RS256", 3600)
    assert revos.allow_insecure_http is False
    assert (token.refresh_interval_minutes, token.max_failures_before_fallback) == (45, 1)
    assert (token.enable_periodic_refresh, token.enable_fallback) == (True, True)
    assert (logging.level, logging.file, logging.max_size) == ("INFO", None, 10485760)
    assert logging.backup_count == 5
    assert dict(config.models) == {}


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "On", " true "])
def test_a_switch_is_on_for_every_usual_word(text):
    assert TokenConfig(enable_fallback=text).enable_fallback is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "OFF"])
def test_a_switch_is_off_for_every_usual_word(text):
    assert TokenConfig(enable_fallback=text).enable_fallback is False


@pytest.mark.parametrize("value", ["", "maybe", "2", 1, 0, 1.0, None, []])
def test_a_switch_is_nothing_else(value):
    assert "enable_fallback must be true or false" in str(
        refusal(TokenConfig, enable_fallback=value)
    )


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "nan", "inf", "1_0", "٣", "five", "", True, None, [], 10**400]
)
def test_a_number_is_finite_and_no_switch(value):
    assert "must be a number" in str(refusal(TokenConfig, refresh_interval_minutes=value))


@pytest.mark.parametrize("value", [1.5, "1.5", 2.0, True, "1_0", "", "9" * 5000, None])
def test_a_whole_number_is_whole(value):
    assert "max_retries must be a whole number from 1 to 10" in str(
        refusal(gateway, max_retries=value)
    )


def test_a_number_too_long_to_print_is_refused_all_the_same():
    huge = 10**5000

    assert "(got a huge number)" in str(refusal(gateway, max_retries=huge, request_timeout=huge))
    assert "(got a huge number)" in str(refusal(LoggingConfig, level=huge))


@pytest.mark.parametrize(
    ("setting", "lowest", "highest"),
    [
        ("token_buffer_minutes", 0, 60),
        ("max_retries", 1, 10),
        ("request_timeout", 0.001, 300),
        ("default_lifetime_seconds", 0.001, 315_360_000),
    ],
)
def test_the_bounds_of_the_gateway_are_within(setting, lowest, highest):
    for value in (lowest, highest, str(lowest), str(highest)):
        assert getattr(gateway(**{setting: value}), setting) == float(value)


@pytest.mark.parametrize(
    ("kind", "setting", "values"),
    [
        (gateway, "token_buffer_minutes", (-1, 60.5)),
        (gateway, "max_retries", (0, 11)),
        (gateway, "request_timeout", (0, -1, 300.1)),
        (gateway, "default_lifetime_seconds", (0, 315_360_001)),
        (TokenConfig, "refresh_interval_minutes", (0, 1441)),
        (TokenConfig, "max_failures_before_fallback", (0, 11)),
        (LoggingConfig, "max_size", (-1,)),
        (LoggingConfig, "backup_count", (-1,)),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_its_value(kind, setting, values):
    for value in values:
        (problem,) = refusal(kind, **{setting: value}).problems

        assert problem.startswith(f"{setting} must be")
        assert problem.endswith(f"(got {value})")


@pytest.mark.parametrize(
    ("setting", "good", "bad"),
    [
        ("temperature", (0, 2), (-0.1, 2.1)),
        ("max_tokens", (1, 10**9), (0, -1)),
        ("top_p", (0, 1), (-0.1, 1.1)),
        ("frequency_penalty", (-2, 2), (-2.1, 2.1)),
        ("presence_penalty", (-2, 2), (-2.1, 2.1)),
        ("timeout", (0.1, 10_000), (0, -1)),
    ],
)
def test_a_model_has_the_bounds_of_the_api(setting, good, bad):
    for value in good:
        assert getattr(ModelConfig(model="m", **{setting: value}), setting) == value
    for value in bad:
        assert f"{setting} must be" in str(refusal(ModelConfig, model="m", **{setting: value}))


def test_a_model_sends_nothing_that_is_not_set():
    model = ModelConfig(model="m")

    assert (model.temperature, model.max_tokens, model.top_p, model.timeout) == (None,) * 4


# URLs.


@pytest.mark.parametrize(
    "address",
    [
        "https://login.example/token",
        "HTTPS://LOGIN.example:8443/token?version=2",
        "https://[2001:db8::1]:8443/token",
        "https://müller.example/",
        "http://localhost:8000/token",
        "http://127.0.0.1/token",
        "http://127.8.9.1:1/token",
        "http://[::1]/token",
    ],
)
def test_these_urls_are_taken_as_they_are(address):
    assert gateway(token_url=address).token_url == address
    assert gateway(base_url=address).base_url == address
    assert gateway(fallback_token_url=address).fallback_token_url == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "login.example/token",
        "//login.example/token",
        "ftp://login.example",
        "https://",
        "https:///token",
        "https://:8443/token",
        "https://login.example:port/",
        "https://login.example:99999/",
        "https://login.example:0/",
        "https://[::1/",
        "https://lo gin.example/",
        "https://login.example/to ken",
        "https://login.example/to\\ken",
        "https://login.example/\n",
        "https://login.example\\@other.example/",
        "https://login.example/#part",
        "https://log%69n.example/",
        "https://login.example/\udcff",
        7,
    ],
)
@pytest.mark.parametrize("setting", ["token_url", "base_url", "fallback_token_url"])
def test_what_is_no_plain_absolute_url_is_refused(setting, address):
    (problem,) = refusal(gateway, **{setting: address}).problems

    assert problem.startswith(f"{setting} must be")
    assert "URL" in problem


@pytest.mark.parametrize(
    "address",
    [
        f"https://user:{SECRET}@login.example/token",
        f"https://{SECRET}@login.example/token",
        f"https://user:{SECRET}/x@login.example/token",
        f"user:{SECRET}@login.example/token",
        f"https://user:{SECRET}%40login.example/token",
        f"https://user:{SECRET}@[login",
        f"ftp://login.example/?key={SECRET}",
        f"http://login.example/?key={SECRET}",
    ],
)
def test_a_refused_url_keeps_its_credentials_to_itself(address):
    assert SECRET not in str(refusal(gateway, token_url=address))


@pytest.mark.parametrize(
    "address",
    [
        "http://login.example/",
        "http://localhost.example/",
        "http://127.0.0.1.example/",
        "http://10.0.0.1/",
        "http://128.0.0.1/",
        "http://[::2]/",
    ],
)
@pytest.mark.parametrize("setting", ["token_url", "base_url", "fallback_token_url"])
def test_plain_http_leaves_the_machine_only_where_it_is_allowed(setting, address):
    (problem,) = refusal(gateway, **{setting: address}).problems

    assert problem.startswith(f"{setting} must be https://")
    assert "allow_insecure_http" in problem
    assert getattr(gateway(**{setting: address, "allow_insecure_http": True}), setting) == address


def test_a_refused_value_is_shown_up_to_eighty_characters_and_never_by_a_repr_of_others():
    class Telling:
        def __repr__(self):
            return SECRET

    long = str(refusal(gateway, token_url="x" * 9_000))
    other = str(refusal(gateway, token_url=Telling(), request_timeout=Telling()))

    assert f"(got {'x' * 80 + '...'!r})" in long
    assert other.count("(got a Telling)") == 2
    assert SECRET not in other


# Credentials.


def test_a_secret_method_takes_a_secret_or_a_file():
    assert gateway().client_secret == SECRET
    assert gateway(client_secret=None, client_secret_file="s").client_secret_file == "s"


def test_a_secret_method_without_either_says_which_two_there_are():
    (problem,) = refusal(gateway, client_secret=None, auth_method="client_secret_basic").problems

    assert (
        problem == "client_secret or client_secret_file is missing: client_secret_basic needs one"
    )


def test_a_secret_and_a_file_at_once_are_a_contradiction():
    error = refusal(
        gateway,
        client_secret_file="one",
        fallback_client_secret=SECRET,
        fallback_client_secret_file="two",
    )

    assert error.problems == (
        "client_secret and client_secret_file are both set: keep one",
        "fallback_client_secret and fallback_client_secret_file are both set: keep one",
    )


def test_a_private_key_takes_the_place_of_a_secret():
    signed = gateway(client_secret=None, auth_method="private_key_jwt", private_key_file="key.pem")

    assert signed.private_key_file == "key.pem"


def test_private_key_jwt_needs_a_key_whatever_the_secret():
    assert refusal(gateway, auth_method="private_key_jwt").problems == (
        "private_key_file is missing: private_key_jwt needs it",
    )


def test_a_fallback_may_lack_a_credential():
    fallback = gateway(
        client_secret=None,
        client_secret_file="s",
        fallback_auth_method="private_key_jwt",
        fallback_client_id="other",
    )

    assert fallback.fallback_client_secret is None


@pytest.mark.parametrize("setting", ["auth_method", "fallback_auth_method"])
def test_an_unknown_method_is_answered_with_the_known_ones(setting):
    assert refusal(gateway, **{setting: "basic"}).problems == (
        (
            f"{setting} must be one of client_secret_post, client_secret_basic, private_key_jwt "
            "(got 'basic')"
        ),
    )


def test_an_unknown_or_symmetric_algorithm_is_refused():
    assert gateway(assertion_algorithm="EdDSA").assertion_algorithm == "EdDSA"
    assert "must be one of RS256" in str(refusal(gateway, assertion_algorithm="HS256"))


def test_a_path_is_kept_as_it_was_given(tmp_path):
    assert gateway(ca_file=tmp_path / "ca.pem").ca_file == str(tmp_path / "ca.pem")
    assert gateway(ca_file="~/../ca.pem").ca_file == "~/../ca.pem"


@pytest.mark.parametrize("secret", [f"{SECRET}\n", f"\0{SECRET}", f"{SECRET}\udc80", "", "  ", 7])
@pytest.mark.parametrize("setting", ["client_secret", "fallback_client_secret"])
def test_an_unusable_secret_is_refused_unseen(setting, secret):
    (problem,) = refusal(gateway, **{setting: secret}).problems

    assert problem.startswith(f"{setting} must ")
    assert "HUSH" not in problem
    assert "got" not in problem


def test_control_characters_in_the_client_id_are_shown_escaped():
    (problem,) = refusal(gateway, client_id="app\r\nx").problems

    assert problem.endswith(r"(got 'app\r\nx')")


# More parameters of the token request.


@pytest.mark.parametrize(
    "given", ["tenant=a%20b&empty=&tier=1%262", {"tenant": "a b", "empty": "", "tier": "1&2"}]
)
def test_extra_parameters_come_form_encoded_or_as_a_mapping(given):
    extra = gateway(extra_token_params=given).extra_token_params

    assert dict(extra) == {"tenant": "a b", "empty": "", "tier": "1&2"}


def test_extra_parameters_do_not_change_any_more():
    given = {"tenant": "a"}
    extra = gateway(extra_token_params=given).extra_token_params
    given["tenant"] = "b"

    assert dict(extra) == {"tenant": "a"}
    with pytest.raises(TypeError):
        extra["tenant"] = "c"


@pytest.mark.parametrize(
    "name",
    [
        "grant_type",
        "scope",
        "audience",
        "resource",
        "client_id",
        "client_secret",
        "client_assertion",
        "client_assertion_type",
    ],
)
def test_extra_parameters_replace_no_standard_one(name):
    for params in (f"tenant=a&{name}={SECRET}", {name: SECRET}):
        (problem,) = refusal(gateway, extra_token_params=params).problems

        assert problem == f"extra_token_params must not replace a standard parameter ({name})"


@pytest.mark.parametrize(
    "given",
    [
        SECRET,
        f"a={SECRET}&a=2",
        f"={SECRET}",
        f"a={SECRET}&&",
        f"a=%ff{SECRET}",
        {"": SECRET},
        {"a\n": SECRET},
        {"a": f"{SECRET}\udcff"},
        {"a": 1},
        {"a": [SECRET]},
        {1: SECRET},
        [SECRET],
        7,
    ],
)
def test_malformed_extra_parameters_are_refused_unseen(given):
    (problem,) = refusal(gateway, extra_token_params=given).problems

    assert problem.startswith("extra_token_params must ")
    assert SECRET not in problem


# Logging.


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("debug", "DEBUG"),
        ("Info", "INFO"),
        ("warn", "WARNING"),
        ("FATAL", "CRITICAL"),
        ("10", "DEBUG"),
        (30, "WARNING"),
        ("15", "15"),
        (0, "NOTSET"),
    ],
)
def test_a_level_is_kept_by_its_standard_name(given, kept):
    assert LoggingConfig(level=given).level == kept


@pytest.mark.parametrize("given", ["loud", "", "-1", "1.5", -1, True, 10**400, None])
def test_a_level_is_one_of_the_standard_ones_or_a_number(given):
    assert "level must be one of CRITICAL" in str(refusal(LoggingConfig, level=given))


@pytest.mark.parametrize("given", ["%(nonsense)s", "no field", "%(levelno)", "%(message)d", 7])
def test_a_format_that_cannot_log_is_refused(given):
    assert "format must be" in str(refusal(LoggingConfig, format=given))


# All of it together.


def test_all_problems_come_in_one_error_a_line_each():
    error = refusal(
        GatewayConfig,
        client_id="",
        client_secret=None,
        token_url="nowhere",
        base_url="http://gateway.example",
        max_retries=0,
        fallback_token_url="https://a@b",
    )

    assert len(error.problems) == 6
    assert str(error).splitlines() == [
        "GatewayConfig has 6 problems:",
        *(f"  - {problem}" for problem in error.problems),
    ]


def test_a_required_setting_that_is_none_is_missing():
    assert refusal(ModelConfig, model=None).problems == ("model is missing",)


def test_an_error_can_be_copied_and_pickled():
    error = refusal(TokenConfig, enable_fallback="x")

    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(twin), twin.problems) == (str(error), error.problems)


def test_an_error_hangs_on_no_other():
    error = refusal(gateway, client_secret="\n", token_url="https://[", request_timeout="x")

    assert (error.__cause__, error.__context__) == (None, None)


def test_a_config_holds_its_own_kinds_only():
    error = refusal(Config, revos={"client_id": "app"}, token=None, models={"a": "gpt-4"})

    assert error.problems == (
        "revos must be a GatewayConfig (got a table)",
        "token must be a TokenConfig (got None)",
        "models must be a mapping of names to ModelConfig (got a table)",
    )


@pytest.mark.parametrize("models", [7, {7: ModelConfig(model="m")}], ids=str)
def test_models_are_a_mapping_of_names(models):
    (problem,) = refusal(Config, revos=gateway(), models=models).problems

    assert problem.startswith("models must be a mapping of names to ModelConfig (got ")


def test_a_method_that_there_is_not_needs_no_secret():
    error = refusal(gateway, auth_method="magic", client_secret=None)

    assert [problem.split()[0] for problem in error.problems] == ["auth_method"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://gateway.example/v1", "'http://gateway.example/v1'"),
        (f"http://gateway.example/v1?key={SECRET}", "'http://gateway.example/v1...'"),
        ("http://gateway.example/" + "v" * 80, f"'http://gateway.example/{'v' * 57}...'"),
    ],
)
def test_of_a_long_value_and_of_a_query_only_the_beginning_is_told(url, told):
    assert f"(got {told})" in str(refusal(gateway, base_url=url))


def test_problems_are_counted_and_a_huge_number_is_not_written_out():
    one = refusal(gateway, max_retries=10**5000)
    two = refusal(gateway, max_retries=0, request_timeout=0)

    assert str(one).count("\n") == 1
    assert "has 1 problem:\n" in str(one)
    assert "(got a huge number)" in str(one)
    assert "has 2 problems:\n" in str(two)


def test_nothing_configured_can_be_changed():
    given = {"gpt-4": ModelConfig(model="m")}
    config = Config(revos=gateway(), models=given)
    given.clear()

    assert list(config.models) == ["gpt-4"]
    with pytest.raises(TypeError):
        config.models["other"] = ModelConfig(model="m")
    with pytest.raises(FrozenInstanceError):
        config.revos.client_id = "other"


def test_an_evolved_config_is_judged_again():
    config = Config(revos=gateway(extra_token_params="a=b"), models={"m": ModelConfig(model="m")})

    faster = evolve(config, token=evolve(config.token, refresh_interval_minutes=1))

    assert faster.token.refresh_interval_minutes == 1
    assert (faster.revos, faster.models) == (config.revos, config.models)
    with pytest.raises(RevosConfigurationError, match="max_retries"):
        evolve(config.revos, max_retries=0)


def test_secrets_stand_in_no_repr():
    secretive = gateway(
        fallback_client_secret=f"{SECRET}2", extra_token_params={"api_key": f"{SECRET}3"}
    )

    assert SECRET not in repr(Config(revos=secretive))
    assert SECRET not in f"{secretive}"


HOLDS_A_SECRET = [gateway(), Config(revos=gateway())]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("thing", HOLDS_A_SECRET, ids=lambda thing: type(thing).__name__)
def test_what_holds_secrets_is_not_pickled_and_says_what_to_do_instead(thing, protocol):
    with pytest.raises(TypeError, match=r"is not pickled.*load_config\(\) in the process"):
        pickle.dumps(thing, protocol)


@pytest.mark.parametrize("thing", HOLDS_A_SECRET, ids=lambda thing: type(thing).__name__)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_of_what_cannot_change_is_itself(thing, duplicate):
    assert duplicate(thing) is thing


# Names of models.


@pytest.mark.parametrize("name", ["gpt-4.1", "gpt_4_1", "GPT_4_1", "Gpt.4-1"])
def test_every_spelling_of_a_name_finds_the_model(name):
    config = Config(revos=gateway(), models={"gpt-4.1": ModelConfig(model="m")})

    assert config.model(name) is config.models["gpt-4.1"]


def test_an_unknown_name_is_answered_with_the_configured_ones_and_the_nearest():
    models = {name: ModelConfig(model="m") for name in ("gpt-4", "claude")}
    config = Config(revos=gateway(), models=models)

    with pytest.raises(RevosConfigurationError) as caught:
        config.model("GTP4")

    assert str(caught.value) == (
        "There is no model 'GTP4'. Configured: gpt-4, claude. The nearest is 'gpt-4'."
    )


def test_an_unknown_name_among_none_says_so():
    with pytest.raises(RevosConfigurationError, match="none is configured"):
        Config(revos=gateway()).model("gpt-4")


def test_two_names_that_match_each_other_are_refused():
    models = {name: ModelConfig(model="m") for name in ("gpt-4", "other", "GPT_4", " ")}

    error = refusal(Config, revos=gateway(), models=models)

    assert len(error.problems) == 2
    assert "'gpt-4' and 'GPT_4' name the same model" in error.problems[0]
    assert error.problems[1] == "models: the name of a model must not be empty"


@given(st.text("aZß-_. 4"))
def test_the_normal_form_of_a_name_is_its_own(name):
    assert match_key(match_key(name)) == match_key(name)
    assert match_key(name.replace("-", ".")) == match_key(name.replace(".", "_"))


# Anything at all.


def outcome(kind, **settings):
    try:
        return kind(**settings), None
    except RevosConfigurationError as error:
        return None, error


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.text(), max_size=2),
    st.dictionaries(st.text(), st.text(), max_size=2),
)


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(GATEWAY, ANYTHING)), st.data())
def test_whatever_is_given_there_is_a_valid_object_or_one_error(first, data):
    names = [attribute.name for attribute in GatewayConfig.__attrs_attrs__]
    more = data.draw(st.dictionaries(st.sampled_from(names), ANYTHING, max_size=4))

    chosen = more | first
    made, error = outcome(gateway, **chosen)

    assert error is None or len(str(error).splitlines()) == len(error.problems) + 1
    assert made is None or evolve(made) == made
