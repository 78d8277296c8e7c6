"""Canaries: tokens of every known form, put where they could leak, never come out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftlab.records.redact import MASK, has_secret, redact, redact_all, secret_values

CANARIES = {  # none was ever valid; forms as the issuers document them
    "Hugging Face": "hf_" + "aB3" * 11 + "x",
    "GitHub classic": "ghp_" + "aB3x" * 9,
    "GitHub fine-grained": "github_pat_" + "1aB_" * 20,
    "GitLab": "glpat-" + "aB3x-" * 4,
    "AWS": "AKIA" + "Z7" * 8,
    "Google": "AIza" + "Sy3_-" * 7,
    "OpenAI": "sk-proj-" + "aB3x" * 10,
    "Anthropic": "sk-ant-api03-" + "aB3x" * 10,
    "Slack": "xoxb-" + "123456789-" * 3 + "abc",
    "PyPI": "pypi-" + "AgEIcHlwaS5vcmc3" * 4,
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27",
}


@pytest.mark.parametrize("token", CANARIES.values(), ids=CANARIES.keys())
@pytest.mark.parametrize("text", ["{}", "x = '{}'", "https://h/?a={}&b=1", "--key={},", '{{"a": "{}"}}', "line\n{}\nline"])
def test_known_tokens_are_masked_anywhere(token: str, text: str) -> None:
    shown = redact(text.format(token), {})
    assert token not in shown and MASK in shown
    assert has_secret(text.format(token))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdef0123456789abcdef", "abcdef0123456789abcdef"),
        ("https://user:pa55word@example.org/x", "pa55word"),
        ("postgresql+psycopg://u:s3cr3t@db:5432/runs", "s3cr3t"),
        ("git clone https://0123456789abcdef0123@github.com/a/b", "0123456789abcdef0123"),
        ("WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567", "0123456789abcdef"),
        ('{"password": "correct-horse-9"}', "correct-horse-9"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
    ],
)
def test_secrets_known_by_their_place(text: str, secret: str) -> None:
    assert secret not in redact(text, {})


@pytest.mark.parametrize(
    "text",
    [
        "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "8f14e45fceea167a5a36dedd4bea2543",
        "scikit-learn task sk-learn-compatible-estimator",
        "git@github.com:someone/something.git",
        "max_tokens: 4096, num_tokens=1234567890123",
        "https://huggingface.co/facebook/deit-tiny-patch16-224/resolve/main/config.json",
        "lora[rank=8] seed 3: accuracy 0.9731",
        "the token embedding of the tokenizer",
        "hf_hub_download",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text, {}) == text


def test_values_of_secret_looking_variables_are_masked_and_others_are_not() -> None:
    environment = {
        "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
        "MY_PASSWORD": "Tr0ub4dor&3",
        "SSH_AUTH_SOCK": "/run/agent.sock",
        "GIT_AUTHOR_NAME": "somebody",
        "USE_TOKEN": "enabled",
        "HOME": "/home/somebody-2",
    }
    assert secret_values(environment) == ["0123456789abcdef0123456789abcdef01234567", "Tr0ub4dor&3"]
    text = "key 0123456789abcdef0123456789abcdef01234567, pass Tr0ub4dor&3, /run/agent.sock, somebody, enabled, /home/somebody-2"
    assert redact(text, environment) == f"key {MASK}, pass {MASK}, /run/agent.sock, somebody, enabled, /home/somebody-2"


@settings(deadline=None)
@given(st.text(), st.text(), st.sampled_from(sorted(CANARIES.values())))
def test_in_any_surroundings_of_other_words(before: str, after: str, token: str) -> None:
    assert token not in redact(f"{before} {token} {after}", {})


@settings(deadline=None)
@given(st.text())
def test_masking_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text, {}), {}) == redact(text, {})


def test_nested_data_keep_their_form() -> None:
    token = CANARIES["Hugging Face"]
    assert redact_all({"a": [1, None, token], token: {"b": 0.5}, "t": (True, token)}) == {
        "a": [1, None, MASK],
        MASK: {"b": 0.5},
        "t": (True, MASK),
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("> Authorization: Bearer abcdef0123456789abcdef, next", f"> Authorization: Bearer {MASK}, next"),
        ("see https://user:pa55word@example.org/x", f"see https://{MASK}@example.org/x"),
        ("a 'password': 'correct-horse-9', b", f"a 'password': '{MASK}', b"),
    ],
)
def test_what_stands_around_a_secret_is_kept(text: str, shown: str) -> None:
    assert redact(text, {}) == shown


def test_values_of_eight_characters_are_masked_and_shorter_ones_are_not() -> None:
    environment = {"MY_TOKEN": "Abcdef7", "OTHER_TOKEN": "Abcdefg8", "THIRD_TOKEN": " Abcdefg8-and-more "}
    assert secret_values(environment) == ["Abcdefg8-and-more", "Abcdefg8"], "the longest first: one contains another"
    assert redact("Abcdefg8", environment) == MASK
    assert redact("Abcdef7, Abcdefg8-and-more", environment) == f"Abcdef7, {MASK}"


@pytest.mark.parametrize("value", ["/run/a-file-1", "~/a-file-1", "unix:path=/a1", "a_plain-word", "abcdefghijklmnopqrst"])
def test_paths_and_plain_words_are_no_secrets(value: str) -> None:
    assert secret_values({"MY_TOKEN": value}) == []


def test_a_long_word_without_digits_may_be_a_secret() -> None:
    assert secret_values({"MY_TOKEN": "abcdefghijklmnopqrstu"}) == ["abcdefghijklmnopqrstu"]
