"""What LangChain's templates can say passes through; what can't work is told before."""

from __future__ import annotations

import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import (
    ChatPromptTemplate,
    FewShotChatMessagePromptTemplate,
    FewShotPromptTemplate,
    MessagesPlaceholder,
    PromptTemplate,
)

from revos import RevosAPIError, RevosInputError

SAID = '{"name": "Ada"}'
IMAGE = "data:image/png;base64,{data}"


class Person(pydantic.BaseModel):
    name: str


async def sent(extractor, gateway, prompt, /, **variables):
    """The messages that a prompt becomes, as role and content."""
    gateway.chat_script.append(SAID)
    await extractor.extract(Person, prompt, **variables)
    messages = gateway.chat_log[-1].payload["messages"]
    return [(message["role"], message["content"]) for message in messages]


def chat(*messages, **options):
    return ChatPromptTemplate.from_messages(messages, **options)


def text_prompt(text, **options):
    return PromptTemplate.from_template(text, **options)


EXAMPLES = [{"i": "Bob {5}", "o": "{Bob}"}]

# Name: the prompt, its variables, and what is sent.
PROMPTS = {
    "a text": ("Of {text}", {"text": "Ada"}, [("user", "Of Ada")]),
    "no variable": ("Of Ada", {}, [("user", "Of Ada")]),
    "doubled braces": ("{{a}} {text} {{", {"text": "Ada"}, [("user", "{a} Ada {")]),
    "braces in a value": ("{text}", {"text": "{x} {{y}} {0}"}, [("user", "{x} {{y}} {0}")]),
    "formats": ("{a:>4}|{b!r}|{c:.1f}", {"a": 1, "b": "x", "c": 2}, [("user", "   1|'x'|2.0")]),
    "names of parameters": (
        "{target} {prompt} {variables} {kwargs} {config} {messages}",
        dict.fromkeys(("target", "prompt", "variables", "kwargs", "config", "messages"), "x"),
        [("user", "x x x x x x")],
    ),
    "names that are none of Python's": ("{a b} {class}", {"a b": 1, "class": 2}, [("user", "1 2")]),
    "a template": (text_prompt("Of {text}"), {"text": "Ada"}, [("user", "Of Ada")]),
    "mustache": (
        text_prompt("{{text}} {{#all}}{{n}};{{/all}}", template_format="mustache"),
        {"text": "{Ada}", "all": [{"n": 1}, {"n": 2}]},
        [("user", "{Ada} 1;2;")],
    ),
    "a part that is there already": (
        text_prompt("{text} of {day}").partial(day="Monday"),
        {"text": "Ada"},
        [("user", "Ada of Monday")],
    ),
    "a part that is made": (
        text_prompt("{text} of {day}").partial(day=lambda: "Monday"),
        {"text": "Ada"},
        [("user", "Ada of Monday")],
    ),
    "another part": (
        text_prompt("{text} of {day}").partial(day="Monday"),
        {"text": "Ada", "day": "Friday"},
        [("user", "Ada of Friday")],
    ),
    "few shots in a text": (
        FewShotPromptTemplate(
            examples=[{"i": "Bob", "o": "5"}],
            example_prompt=text_prompt("{i}: {o}"),
            suffix="{text}:",
        ),
        {"text": "Ada"},
        [("user", "Bob: 5\n\nAda:")],
    ),
    "system text": (
        chat(("system", "You read {what}."), ("human", "{text}")),
        {"what": "letters", "text": "Ada"},
        [("system", "You read letters."), ("user", "Ada")],
    ),
    "few shots": (
        chat(
            FewShotChatMessagePromptTemplate(
                examples=EXAMPLES, example_prompt=chat(("human", "{i}"), ("ai", "{o}"))
            ),
            ("human", "{text}"),
        ),
        {"text": "Ada"},
        [("user", "Bob {5}"), ("assistant", "{Bob}"), ("user", "Ada")],
    ),
    "messages": (
        chat(MessagesPlaceholder("before"), ("human", "{text}")),
        {"before": [HumanMessage("{Hi}"), AIMessage("Ho"), ("human", "So?")], "text": "Ada"},
        [("user", "{Hi}"), ("assistant", "Ho"), ("user", "So?"), ("user", "Ada")],
    ),
    "messages that may be left out": (
        chat(MessagesPlaceholder("before", optional=True), ("human", "{text}")),
        {"text": "Ada"},
        [("user", "Ada")],
    ),
    "messages that are not left out": (
        chat(("placeholder", "{before}"), ("human", "{text}")),
        {"text": "Ada", "before": [HumanMessage("Hi")]},
        [("user", "Hi"), ("user", "Ada")],
    ),
    "messages as they are": (
        chat(SystemMessage("{as it is}"), ("human", "{text}")),
        {"text": "Ada"},
        [("system", "{as it is}"), ("user", "Ada")],
    ),
    "an image": (
        chat(
            (
                "human",
                [
                    {"type": "text", "text": "Who? {text}"},
                    {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
                ],
            )
        ),
        {"text": "Ada", "data": "QUJD"},
        [
            (
                "user",
                [
                    {"type": "text", "text": "Who? Ada"},
                    {
                        "type": "image_url",
                        "image_url": {"url": IMAGE.format(data="QUJD"), "detail": "low"},
                    },
                ],
            )
        ],
    ),
    "mustache in a chat": (
        chat(("human", "{{text}} {x}"), template_format="mustache"),
        {"text": "{Ada}"},
        [("user", "{Ada} {x}")],
    ),
}


class Unwritable:
    def __format__(self, spec):
        raise RuntimeError("not to be shown")


BAD = {
    "missing": ("{a} {b}", {"a": 1}, "missing: b.*it has: a, b"),
    "unknown": ("{a}", {"a": 1, "z": 2, "y": 3}, "unknown: y, z"),
    "both": ("{a}", {"b": 1}, "missing: a; unknown: b"),
    "none at all": ("text", {"text": 1}, "unknown: text.*it has: none"),
    "messages missing": (chat(MessagesPlaceholder("before")), {}, "missing: before"),
    "a part unknown": (text_prompt("{a}").partial(a="x"), {"b": 1}, "unknown: b.*it has: a"),
    "no messages": (chat(MessagesPlaceholder("before")), {"before": "text"}, "ValueError"),
    "open": ("open { brace", {"text": "x"}, "double literal braces"),
    "JSON": ('{"a": 1}', {}, "double literal braces"),
    "no name": ("{} {text}", {"text": "x"}, "without a name"),
    "a number": ("{0}", {"0": "x"}, "name each field"),
    "an attribute": ("{a.b}", {"a": "x"}, "name each field"),
    "an item": ("{a[0]}", {"a": "x"}, "name each field"),
    "self": ("{self}", {"self": "x"}, "named self"),
    "a format": ("{a:d}", {"a": "x"}, r"can't be filled \(ValueError\)"),
    "a value": ("{a}", {"a": Unwritable()}, r"can't be filled \(RuntimeError\)"),
    "a part": (
        text_prompt("{a}").partial(a=lambda: 1 / 0),
        {},
        r"can't be filled \(ZeroDivisionError\)",
    ),
    "a message": (HumanMessage("x"), {}, "not HumanMessage"),
    "messages in a list": ([("human", "x")], {}, "not list"),
    "bytes": (b"{text}", {"text": "x"}, "not bytes"),
    "nothing": (None, {}, "not NoneType"),
}


async def test_what_a_template_says_is_what_is_sent(gpt4, revos_gateway):
    messages = {
        name: await sent(gpt4, revos_gateway, prompt, **variables)
        for name, (prompt, variables, _) in PROMPTS.items()
    }

    assert messages == {name: expected for name, (_, _, expected) in PROMPTS.items()}


async def test_a_prompt_or_variables_that_cannot_work_are_told_before_anything_is_sent(
    gpt4, revos_gateway
):
    for prompt, variables, words in BAD.values():
        with pytest.raises(RevosInputError, match=words):
            await gpt4.extract(Person, prompt, **variables)

    assert revos_gateway.api_requests == 0


@pytest.mark.parametrize(
    ("first", "role"),
    [
        pytest.param(SystemMessage("Be brief."), "system", id="a text"),
        pytest.param(
            SystemMessage("Be brief.", additional_kwargs={"__openai_role__": "developer"}),
            "developer",
            id="the developer's",
        ),
        pytest.param(SystemMessage([{"type": "text", "text": "Be brief."}]), "system", id="parts"),
    ],
)
async def test_the_schema_joins_the_system_text_that_is_there(tm, revos_gateway, first, role):
    async with tm.extractor("gpt-4", strategy="json_text") as gpt4:
        messages = await sent(gpt4, revos_gateway, chat(first, ("human", "{text}")), text="Ada")

    (said, content), *others = messages
    assert said == role
    assert "Be brief." in str(content)
    assert "JSON schema" in str(content)
    assert type(content) is type(first.content)
    assert others == [("user", "Ada")]


async def test_the_schema_goes_ahead_where_no_system_text_is(tm, revos_gateway):
    async with tm.extractor("gpt-4", strategy="json_text") as gpt4:
        messages = await sent(gpt4, revos_gateway, "{text}", text="Ada")

    assert [role for role, _ in messages] == ["system", "user"]
    assert '"properties": {"name"' in messages[0][1]


async def test_a_prompt_of_no_messages_is_the_gateways_to_judge(gpt4):
    with pytest.raises(RevosAPIError, match="messages"):
        await gpt4.extract(Person, chat(MessagesPlaceholder("before", optional=True)))
