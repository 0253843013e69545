"""Prompts: one sentence that names who is seen, what they do and how they feel, in known words.

The tokenizer of the small model is a list of whole words; punctuation is dropped and letters are
small. A word outside the list is unknown to it.
"""

import random
import re

from omniavatar.nano.presenters import COLOURS, HAIR_COLOURS, Traits

BEHAVIOURS = (
    "plain", "still", "nodding", "looking around", "blinking often", "smiling", "serious",
)  # fmt: skip
"""What a presenter does; the last two are moods with plain motion. The order numbers them."""

WIDE_BEHAVIOURS = (*BEHAVIOURS, "sad", "waving")
"""The same with those that come with the wide look."""

MOODS = ("neutral", "smiling", "serious")
"""The order numbers them; `Pose.smile` is 0, 1 and -1."""

WIDE_MOODS = (*MOODS, "sad")

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"

_MOTIONS = {
    "still": ("keeps still", "stays still", "keeps very still", "holds the head still",
              "stays calm and steady", "sits still without moving"),
    "nodding": ("nods", "is nodding", "nods slowly", "nods often", "keeps nodding the head"),
    "looking around": ("looks around", "is looking around", "looks left and right",
                       "keeps looking around the room"),
    "blinking often": ("blinks often", "is blinking often", "blinks frequently",
                       "keeps blinking the eyes"),
    "waving": ("waves a hand", "is waving a hand", "waves at the camera", "waves",
               "raises a hand and waves"),
}  # fmt: skip
_FEELINGS = {
    "smiling": ("smiling", "with a smile", "with a happy smile", "smiling happily",
                "with a friendly face", "looking happy"),
    "serious": ("looking serious", "with a serious face", "with a stern expression",
                "with a serious expression"),
    "sad": ("looking sad", "with a sad face", "with a sad expression", "sadly"),
    "neutral": ("with a calm face", "with a neutral expression", "looking calm"),
}  # fmt: skip
_TALKING = (
    "is talking", "talks", "is speaking", "speaks", "is talking to the camera",
    "speaks to the camera", "is speaking directly to the camera", "talks to the viewer",
    "is looking at the camera and talking", "is giving a talk", "tells a story",
)  # fmt: skip
_OPENINGS = (
    "",
    "",
    "",
    "a cartoon of ",
    "a video of ",
    "a drawing of ",
    "a high quality video of ",
)
_OTHER_WORDS = """
realistic photo portrait animated lively blurry bad ugly distorted low static frame artifacts
moving up down young old people human gestures hands indoors outdoors news studio light dark
front background scene close shot clear natural gentle gently expressive emotion voice
sings singing says saying explains presents host teacher doctor character avatar lady girl boy
mouth lips eye into as this that they he she it i you we one two some from for by out not
big small tall thick thin soft warm cool bright colorful beautiful handsome cute funny
surprised sad angry relaxed confident professional turns moves shakes tilts raises eyebrows slightly
"""

_HAIR_WORDS = {
    "bald": "a bald head", "buzzed": "very short {c} hair", "short": "short {c} hair",
    "parted": "{c} hair with a parting", "fringe": "short {c} hair with a fringe",
    "curly": "curly {c} hair", "afro": "a big {c} afro", "bob": "{c} hair in a bob",
    "long": "long {c} hair", "wavy": "long wavy {c} hair", "ponytail": "{c} hair in a ponytail",
    "bun": "{c} hair in a bun", "pigtails": "{c} pigtails", "mohawk": "a {c} mohawk",
}  # fmt: skip
_WALL_WORDS = {
    "plain": "plain", "gradient": "", "striped": "striped", "panelled": "", "dotted": "dotted",
    "glowing": "glowing", "curtain": "soft striped",
}  # fmt: skip


def words_of(text: str) -> list[str]:
    """Small letters, without punctuation."""
    return re.findall(r"[a-z]+", text.lower())


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _person(traits: Traits, chance: random.Random) -> str:
    if traits.beard != "none":
        return chance.choice(("man", "man", "person", "presenter"))
    if traits.has_long_hair or traits.lipstick or traits.headwear == "headscarf":
        return chance.choice(("woman", "woman", "person", "presenter"))
    return chance.choice(("person", "person", "presenter", "speaker", "man", "woman"))


def _looks(traits: Traits) -> list[str]:
    """Everything that can be named about the presenter, each as words after "with"."""
    looks = []
    if traits.headwear != "headscarf":
        looks.append(_HAIR_WORDS[traits.hair].format(c=traits.hair_colour))
    if traits.headwear != "none":
        plural = traits.headwear == "headphones"
        noun = f"{traits.headwear_colour} {traits.headwear}"
        looks.append(noun if plural else _article(noun))
    if traits.glasses != "none":
        looks.append(f"{traits.glasses} glasses")
    if traits.beard in ("full", "stubble"):
        looks.append("a beard" if traits.beard == "full" else "a short beard")
    elif traits.beard != "none":
        looks.append(f"a {traits.beard}")
    if traits.lipstick:
        looks.append("red lips")
    if traits.cheeks == "freckles":
        looks.append("freckles")
    return looks


def sentence(traits: Traits, *, behaviour: str, mood: str, chance: random.Random) -> str:
    """A prompt that tells the behaviour and the mood, and some of what is seen.

    Args:
        traits: the presenter.
        behaviour: one of `WIDE_BEHAVIOURS`.
        mood: one of `WIDE_MOODS`; a neutral one is named only sometimes.
        chance: picks the words.
    """
    looks = _looks(traits)
    chosen = chance.sample(looks, min(len(looks), chance.choice((0, 1, 1, 2, 2, 3))))
    text = f"{chance.choice(_OPENINGS)}{_article(_person(traits, chance))}"
    if chosen:
        text += f" with {' and '.join(chosen)}"
    if chance.random() < 0.5:
        clothes = _article(f"{traits.clothes_colour} {traits.clothes}")
        text += chance.choice((f" in {clothes}", f" wearing {clothes}"))
    text += f" {chance.choice(_TALKING)}"
    if mood != "neutral" or chance.random() < 0.25:
        text += f" {chance.choice(_FEELINGS[mood])}"
    if behaviour in _MOTIONS:
        joint = chance.choice((" and", ", the person", " while the head moves and the person")
                              if behaviour == "nodding" else (" and", ", the person"))  # fmt: skip
        text += f"{joint} {chance.choice(_MOTIONS[behaviour])}"
    if chance.random() < 0.35:
        wall = f"{_WALL_WORDS[traits.wall]} {traits.wall_colour}".strip()
        text += chance.choice((
            f", {wall} background", f", in front of {_article(f'{wall} wall')}",
            f" in {_article(f'{traits.wall_colour} room')}",
        ))  # fmt: skip
        names = [name for name in traits.objects if name != "none"]
        if names and chance.random() < 0.5:
            text += f" with {_article(chance.choice(names))}"
    return f"{text[0].upper()}{text[1:]}."


def _vocabulary() -> tuple[str, ...]:
    # Words that came later stand at the end, so that those before keep their numbers.
    later = (*_MOTIONS["waving"], *_FEELINGS["sad"])
    motions = [text for name, texts in _MOTIONS.items() if name != "waving" for text in texts]
    feelings = [text for name, texts in _FEELINGS.items() if name != "sad" for text in texts]
    pieces = [
        _OTHER_WORDS, *_OPENINGS, *_TALKING, *HAIR_COLOURS, *COLOURS, *_HAIR_WORDS.values(),
        *_WALL_WORDS.values(), *motions, *feelings,
        "a an and in wearing with while the head moves person presenter speaker man woman",
        "beanie cap brimmed hat hard headscarf turban headband headphones round square glasses",
        "beard short goatee moustache red lips freckles shirt t v neck jacket hoodie turtleneck",
        "striped sweater dress background of wall front room picture window plant lamp shelf",
    ]  # fmt: skip
    words = {word for piece in pieces for word in words_of(piece.replace("{c}", ""))}
    new = {word for piece in later for word in words_of(piece)} - words
    return (PAD, END, UNKNOWN, *sorted(words), *sorted(new))


VOCABULARY = _vocabulary()
"""All tokens; a word's number is its place."""
