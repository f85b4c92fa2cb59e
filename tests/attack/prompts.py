"""Some hundred different questions, the same ones in every run."""

from __future__ import annotations

import itertools
import random

from agent.core.model import ChatInput, CompletionInput, Message

_ASKED = (
    "What is {}, and why does it matter?",
    "Write the beginning of a story about {}.",
    "Explain {} to a child of eight.",
    "List ten facts about {}.",
    "How did people first learn about {}?",
    "Write a letter of complaint about {}.",
    "What would change if there were no {}?",
    "Give a short lesson on {} with two examples.",
    "Write a dialogue between two friends about {}.",
    "What is the most common mistake about {}?",
)
_TOPICS = (
    "photosynthesis",
    "the Roman Empire",
    "a village by the sea",
    "bicycles",
    "sorting algorithms",
    "volcanoes",
    "bread",
    "the night train",
    "black holes",
    "elephants",
    "home networks",
    "chess",
    "earthquakes",
    "old maps",
    "renewable energy",
    "music for the piano",
    "honey bees",
    "the printing press",
    "coffee",
    "snow",
)
_OTHER_WORDS = ("red", "never", "three", "mountain", "quietly", "music", "war", "sugar", "winter", "first")


def chat(text: str) -> ChatInput:
    """One turn."""
    return ChatInput(messages=(Message(role="user", content=text),))


def question(number: int) -> str:
    """The same number gives the same question; the first 200 differ."""
    topic, asked = _TOPICS[number % len(_TOPICS)], _ASKED[number // len(_TOPICS) % len(_ASKED)]
    return asked.format(topic)


def given(number: int) -> ChatInput | CompletionInput:
    """Every third is a completion."""
    text = question(number)
    return CompletionInput(prompt=text + "\n") if number % 3 == 2 else chat(text)


def other_word(prompt: ChatInput | CompletionInput, seed: int) -> ChatInput | CompletionInput:
    """The prompt with one of its words changed."""
    chance = random.Random(seed)
    text = prompt.prompt if isinstance(prompt, CompletionInput) else prompt.messages[0].content
    words = text.split(" ")
    at = chance.randrange(len(words))
    words[at] = next(word for word in itertools.cycle(chance.sample(_OTHER_WORDS, 3)) if word != words[at])
    changed = " ".join(words)
    return CompletionInput(prompt=changed) if isinstance(prompt, CompletionInput) else chat(changed)
