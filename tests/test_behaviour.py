import pytest

from omniavatar.serving.behaviour import ROWS, with_sentence

WHO, MOOD, MOVEMENT, BACKGROUND = ROWS


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_sentences_stand_in_their_order_however_they_were_chosen(order):
    prompt = ""
    for number in order:
        prompt = with_sentence(prompt, ROWS[number], ROWS[number].chips[0])
    assert prompt == " ".join(row.chips[0].sentence for row in ROWS)


def test_a_second_choice_of_a_row_replaces_the_first_and_a_second_press_takes_it_back():
    friendly, calm, *_ = MOOD.chips
    prompt = with_sentence("She holds a cup.", MOOD, friendly)
    assert prompt == f"She holds a cup. {friendly.sentence}"
    prompt = with_sentence(prompt, MOOD, calm)
    assert prompt == f"She holds a cup. {calm.sentence}"
    assert with_sentence(prompt, MOOD, calm) == "She holds a cup."


def test_own_words_stay_between_who_and_background():
    prompt = with_sentence("She holds a cup.", BACKGROUND, BACKGROUND.chips[0])
    prompt = with_sentence(prompt, WHO, WHO.chips[0])
    assert prompt == f"{WHO.chips[0].sentence} She holds a cup. {BACKGROUND.chips[0].sentence}"
    prompt = with_sentence(prompt, MOVEMENT, next(c for c in MOVEMENT.chips if c.label == "Nods"))
    assert prompt.index("cup") < prompt.index("nods") < prompt.index("camera and the background")
