"""A narrow domain to train on: household commands and what they mean.

    user       wake me on friday at 7:45 then text anna saying the meeting is late
    assistant  [set_alarm [day on friday ] [time at 7:45 ] ]
               [send_message [person anna ] [text saying the meeting is late ] ]

Meanings repeat what was said, in brackets that have to be found: answers follow from prompts. A
seed and a number give an example, whatever was drawn before. Which part of the split a prompt is in
is a property of its text, so that no prompt is in both.
"""

import hashlib
import random
from dataclasses import dataclass

TRAIN, HELD_OUT = "train", "held-out"
HELD_OUT_SHARE = 1 / 16
MIN_COMMANDS, MAX_COMMANDS = 2, 4

NAMES = """anna bruno clara david edith felix greta hugo ines jonas karin leo mara nils olga paul
quentin rosa simon tilda ugo vera walter xenia yusuf zoe""".split()
ROOMS = """kitchen bedroom hall office garage attic cellar garden bathroom nursery""".split()
CITIES = """lisbon oslo vienna turin bergen ghent porto basel krakow riga malmo lyon leeds cork
tartu bilbao""".split()
GENRES = "jazz folk blues soul opera techno swing choral ambient tango".split()
COLOURS = "red green blue amber violet white".split()
ITEMS = """apples pears plums lemons figs rice flour butter salt honey soap candles batteries
nails paper stamps""".split()
LISTS = "shopping holiday party garden work".split()
TASKS = """water the plants|feed the cat|call the bank|pay the rent|fix the bike|clean the oven|
post the letter|book the train|wash the car|charge the drill""".replace("\n", "").split("|")
WORDS = """the a my our meeting train dinner parcel key dog car house is was will be late early
ready broken here there soon today please bring take find move send again with without before after
bread tea book lamp ticket window""".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
PLACES = """station harbour museum library market airport theatre clinic school stadium""".split()
WAYS = "by bike|by train|by car|on foot".split("|")
JOINS = (" then ", " and ", " also ")


@dataclass(frozen=True)
class Example:
    prompt: str
    answer: str


def _time(rng: random.Random) -> str:
    return f"at {rng.randrange(24)}:{rng.randrange(12) * 5:02d}"


def _words(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 7)))


# Slot -> how it is said.
SLOTS = {
    "time": _time,
    "day": lambda rng: "on " + rng.choice(DAYS),
    "length": lambda rng: f"for {rng.randint(2, 90)} minutes",
    "person": lambda rng: rng.choice(NAMES),
    "guest": lambda rng: "with " + rng.choice(NAMES),
    "text": lambda rng: "saying " + _words(rng),
    "note": lambda rng: "named " + _words(rng),
    "room": lambda rng: "in the " + rng.choice(ROOMS),
    "city": lambda rng: "in " + rng.choice(CITIES),
    "genre": lambda rng: "some " + rng.choice(GENRES),
    "colour": lambda rng: "in " + rng.choice(COLOURS),
    "level": lambda rng: f"to {rng.randint(1, 20) * 5} percent",
    "degrees": lambda rng: f"to {rng.randint(14, 26)} degrees",
    "item": lambda rng: f"{rng.randint(2, 40)} {rng.choice(ITEMS)}",
    "list": lambda rng: f"to the {rng.choice(LISTS)} list",
    "task": lambda rng: "to " + rng.choice(TASKS),
    "place": lambda rng: "to the " + rng.choice(PLACES),
    "way": lambda rng: rng.choice(WAYS),
    "seats": lambda rng: f"for {rng.randint(2, 12)} people",
}

# Intent -> how it begins, slots that follow at once, slots that may follow in any order.
INTENTS = {
    "set_alarm": (("wake me", "set an alarm", "make an alarm"), ("time",), ("day", "note")),
    "set_timer": (("start a timer", "set a timer"), ("length",), ("note",)),
    "play_music": (("play", "put on", "i want to hear"), ("genre",), ("room", "level")),
    "send_message": (("text", "write to", "message"), ("person", "text"), ("time",)),
    "add_item": (("add", "put", "note down"), ("item", "list"), ()),
    "get_weather": (("how is the weather", "what is the forecast"), ("city",), ("day", "time")),
    "remind": (("remind me", "do not let me forget"), ("task",), ("day", "time")),
    "set_light": (("turn the lights", "dim the lights"), ("level",), ("room", "colour")),
    "set_heat": (("set the heating", "turn the heating"), ("degrees",), ("room", "time")),
    "meet": (("plan a meeting", "fix a meeting"), ("guest",), ("day", "time", "city", "note")),
    "navigate": (("take me", "find a way", "lead me"), ("place",), ("way", "city")),
    "book_table": (("book a table", "reserve a table"), ("seats",), ("day", "time", "city")),
}


def _command(rng: random.Random) -> tuple[str, str]:
    intent = rng.choice(list(INTENTS))
    beginnings, fixed, free = INTENTS[intent]
    slots = [*fixed, *rng.sample(free, rng.randint(0, len(free)))]
    said = [(slot, SLOTS[slot](rng)) for slot in slots]
    spoken = " ".join([rng.choice(beginnings), *(words for _, words in said)])
    meant = "".join(f" [{slot} {words} ]" for slot, words in said)
    return spoken, f"[{intent}{meant} ]"


def _draw(rng: random.Random) -> Example:
    commands = [_command(rng) for _ in range(rng.randint(MIN_COMMANDS, MAX_COMMANDS))]
    prompt = commands[0][0] + "".join(rng.choice(JOINS) + spoken for spoken, _ in commands[1:])
    return Example(prompt, "\n".join(meant for _, meant in commands))


def part_of(prompt: str) -> str:
    digest = hashlib.sha256(prompt.encode()).digest()
    return HELD_OUT if int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32 else TRAIN


def example(seed: int, part: str, number: int) -> Example:
    rng = random.Random(f"{seed} {part} {number}")
    while True:
        drawn = _draw(rng)
        if part_of(drawn.prompt) == part:
            return drawn
