"""English sentences to speak: simple grammar over word lists, one list for training, one held out.

The two lists share function words and nothing else, so a held-out sentence has words, and most
sounds in an order, that training never had.
"""

import random
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.strip().splitlines())


_TRAINING_NOUNS = _words("""
apple baby badge bag bakery ball banana bank basket bath beach bear bed bell bench bicycle bird
blanket board boat book bottle bottom box boy bread bridge brother brush bucket building bus button
cabin cake camera camp candle cap captain car carpet castle cat chair chalk cheese chicken child
church circle city class clock cloud club coat coffee coin cook corner country cousin cow crowd cup
curtain dance daughter day desk dinner dish doctor dog door drawer dream dress driver drum duck
dust ear earth east egg elephant engine evening eye face factory family farm farmer father feather
fence field finger fire fish flag floor flower food foot forest fork fox friend frog fruit game
garden gate gift girl glass glove gold grandmother grape grass ground group guest guide hall hammer
hand harbor hat head heart hill home honey horse hospital hotel hour house ice idea island jacket
jar job journey judge juice key king kitchen kite knee knife lady lake lamp land language lawyer
leaf leg lemon lesson letter library light line lion lip list lunch machine map market meal meat
medicine member memory metal milk minute mirror model moment money month moon morning mother
mountain mouse mouth movie museum music nail name neck needle neighbor nest news night noise north
nose note number nurse ocean office oil onion orange oven owner page paint pair paper parent park
part party path pencil people pepper person phone photo piano picture pie pig pillow pilot pipe
place plan plane plant plate player pocket poem police pond pool potato present price problem
puppy purse queen question rabbit radio rain reason record rice ring river road rock roof room root
rope rose salt sand school science sea season seat shadow sheep shelf ship shirt shoe shop shoulder
sister skin sky smile snake snow soap sock soldier son song sound soup south spoon spring square
stage stair star station stone store storm story street student sugar summer sun table tail teacher
team telephone tent theater thing ticket tiger time toe tomato tongue tool tooth top towel tower
town toy train tree trip truck uncle valley vegetable village visitor voice wagon wall watch water
wave weather week wheel wind window winter wolf woman wood wool word work world worm yard year
""")

_TRAINING_VERBS = _words("""
answered asked bought borrowed brought built called carried caught changed chose cleaned closed
collected counted covered described discovered drew dropped enjoyed explained fed filled finished
fixed followed forgot found gave held heard helped imagined invited joined kept knew learned left
liked lost loved made measured met missed moved needed noticed offered opened ordered packed painted
passed picked planned played pointed pulled pushed put reached read remembered repaired sang saved
saw sent served shared showed sold started stopped studied taught thanked threw told took touched
turned used visited waited wanted warmed washed watched wished won wore wrote
""")

_TRAINING_ADJECTIVES = _words("""
able afraid angry bad beautiful better big black blue brave bright broken brown busy calm careful
cheap clean clear clever cold cool dark dear deep different dirty dry early easy empty fair famous
fast fine flat free fresh friendly full funny gentle glad good gray great green happy hard heavy
high hot huge hungry kind large late lazy little lonely long loud low lucky narrow new nice noisy
old open perfect plain poor pretty proud quick quiet ready real red rich right round sad safe sharp
short shy sick simple slow small smooth soft special square strange strong sweet tall thick thin
tired tiny warm weak wet white whole wide wild wise wonderful wrong yellow young
""")

_TRAINING_ADVERBS = _words("""
again almost already always carefully early easily finally gladly happily here just later maybe
never now often once probably quickly quietly rarely really slowly sometimes soon still suddenly
there today together tomorrow tonight usually yesterday yet
""")

_TRAINING_PHRASES = _lines("""
good morning everybody
thank you very much for coming
how are you doing today
what do you think about that
let me show you how it works
I am so happy to see you again
please come in and take a seat
that is a really good question
we will be back in a moment
could you say that one more time
I don't know what you mean
it was a pleasure to meet you
see you next week at the same time
welcome to the show my friends
first of all we should begin with a few words about the house
my favorite part is the very end
nobody told me about the party
before we go I would like to say something
you should never give up on your dream
why not try it for yourself
people often ask me where I come from
put the big boat on the map
mom and pop bought a bumpy mop
five fine fish will leave the river
the moon was above the blue room
she sells shoes by the sea shore
""")

_HELD_OUT_NOUNS = _words("""
airport actor alley almond anchor ankle arrow artist attic autumn balcony balloon barber barrel
beetle berry blossom bonfire bracelet branch breakfast breeze butcher butterfly cactus canyon
caravan cellar chimney chocolate cinema cliff compass computer cottage cupboard dentist desert
diamond dolphin donkey eagle elbow envelope ferry festival flame flute fountain freezer galaxy
giant goat guitar helmet herring jewel jungle kangaroo kettle ladder lantern lobster magazine
maple marble meadow melody mushroom napkin nephew newspaper orchard orchestra oyster palace panther
peach pebble penguin planet plumber porch pumpkin puzzle rainbow ribbon rocket sailor sandwich
saddle scientist shepherd spider squirrel suitcase swan thumb tractor trumpet tulip turtle umbrella
vase violin volcano waiter walnut whale whistle wizard zebra
""")

_HELD_OUT_VERBS = _words("""
admired avoided baked balanced blamed chased cheered climbed copied defended delivered designed
embraced examined grabbed greeted guarded ignored invented juggled launched mentioned organized
peeled photographed praised protected recognized removed rescued scrubbed sketched squeezed
surprised tasted trusted unlocked whispered wrapped
""")

_HELD_OUT_ADJECTIVES = _words("""
ancient awkward bitter bold charming cheerful comfortable crooked curious delicate dizzy elegant
enormous faithful fancy foggy fragile generous golden graceful honest humble icy jolly lively
lovely modern mysterious nervous pale patient polite purple rough royal rusty salty shiny silent
silly silver sleepy spicy steep stubborn sunny tasty velvet wooden
""")

_HELD_OUT_ADVERBS = _words("""
abroad afterwards barely bravely certainly deeply downstairs eagerly forever gently hopefully
instead loudly nearby patiently politely proudly recently softly upstairs warmly
""")

_HELD_OUT_PHRASES = _lines("""
ladies and gentlemen kindly fasten your seatbelts
congratulations on your brilliant performance
company profits increased by eleven percent
scientists have announced a remarkable breakthrough
the committee approved another budget proposal
my grandfather grew cabbages behind his workshop
perhaps you might consider a simpler approach
fifty violinists practiced beneath the marble dome
artificial voices become surprisingly natural
our software produces video from audio
""")

_FUNCTION_WORDS = _words("""
a about after all and any as at because before between but by can did do down each every few for
from had has have he her him his how I if in into is it its many me more most much my no not of off
on one or our out over she so some than that the their them then these they this those through to
too two under until up us was we were what when where which while who why will with would you your
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """The words of one side of the split."""

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    adjectives: tuple[str, ...]
    adverbs: tuple[str, ...]
    phrases: tuple[str, ...]

    def content_words(self) -> frozenset[str]:
        """All words but the function words, phrases included, in lower case."""
        phrases = (word for phrase in self.phrases for word in phrase.split())
        words = (*self.nouns, *self.verbs, *self.adjectives, *self.adverbs, *phrases)
        return frozenset(word.lower() for word in words) - {w.lower() for w in _FUNCTION_WORDS}


TRAINING_WORDS = Lexicon(
    nouns=_TRAINING_NOUNS,
    verbs=_TRAINING_VERBS,
    adjectives=_TRAINING_ADJECTIVES,
    adverbs=_TRAINING_ADVERBS,
    phrases=_TRAINING_PHRASES,
)
HELD_OUT_WORDS = Lexicon(
    nouns=_HELD_OUT_NOUNS,
    verbs=_HELD_OUT_VERBS,
    adjectives=_HELD_OUT_ADJECTIVES,
    adverbs=_HELD_OUT_ADVERBS,
    phrases=_HELD_OUT_PHRASES,
)


def _thing(words: Lexicon, chance: random.Random) -> str:
    article = chance.choice(("the", "the", "the", "my", "your", "his", "her", "our", "their",
                             "this", "that", "every", "one", "some"))  # fmt: skip
    adjective = f"{chance.choice(words.adjectives)} " if chance.random() < 0.45 else ""
    return f"{article} {adjective}{chance.choice(words.nouns)}"


def _place(words: Lexicon, chance: random.Random) -> str:
    place = chance.choice(("in", "on", "under", "by", "near", "with", "from", "to", "for", "into",
                           "over", "through", "before", "after", "about", "of"))  # fmt: skip
    return f"{place} {_thing(words, chance)}"


def _clause(words: Lexicon, chance: random.Random) -> str:
    pronouns = ("I", "you", "he", "she", "we", "they", "it", "who")
    who = chance.choice(pronouns) if chance.random() < 0.5 else _thing(words, chance)
    kind = chance.random()
    if kind < 0.25:
        text = f"{who} was {chance.choice(('very', 'so', 'not', 'too', 'never', 'quite'))} "
        text += chance.choice(words.adjectives)
    else:
        text = f"{who} {chance.choice(words.verbs)} {_thing(words, chance)}"
    if chance.random() < 0.4:
        text += f" {_place(words, chance)}"
    if chance.random() < 0.25:
        text += f" {chance.choice(words.adverbs)}"
    return text


def _shuffled_words(words: Lexicon, chance: random.Random) -> str:
    pools = (words.nouns, words.nouns, words.adjectives, words.verbs, words.adverbs)
    chosen = [
        chance.choice(_FUNCTION_WORDS if chance.random() < 1 / 3 else chance.choice(pools))
        for _ in range(chance.randint(4, 13))
    ]
    if len(chosen) > 7 and chance.random() < 0.5:
        chosen[chance.randint(2, 5)] += ","
    return " ".join(chosen)


def random_sentence(words: Lexicon, chance: random.Random) -> str:
    """One sentence of about 2 to 25 words, with its punctuation."""
    kind = chance.random()
    if kind < 0.12:
        text = chance.choice(words.phrases)
    elif kind < 0.37:
        text = _shuffled_words(words, chance)
    else:
        text = _clause(words, chance)
        if chance.random() < 0.4:
            joint = chance.choice((", and", ", but", " because", " when", ", so", " while", ", or"))
            text += f"{joint} {_clause(words, chance)}"
        if chance.random() < 0.12:
            text = f"{chance.choice(words.adverbs)}, {text}"
    return text + chance.choices(".!?,", weights=(70, 10, 12, 8))[0]
