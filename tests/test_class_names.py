"""Matching a prior's labels to classes: by mapping, name, synonym, WordNet id, number; and errors."""

import json
from pathlib import Path

import pytest
import torch

from taming_cli.errors import UsageError
from taming_cli.pretrained.class_names import match, read_mapping
from taming_cli.pretrained.classifiers import Classes, Classifier, Recipe, imagenet
from taming_cli.runtime.weights import LocalWeights


class Silent(Classifier):
    """A classifier that has classes and no network."""

    def __init__(self, classes: Classes) -> None:
        file = LocalWeights("silent", Path("silent.pth"), "0" * 64, True, "given")
        recipe = Recipe(1, 1, None, (0.5,) * 3, (0.5,) * 3)
        super().__init__("silent", file, known=True, recipe=recipe, classes=classes)

    def logits(self, prepared: torch.Tensor) -> torch.Tensor:
        return prepared


@pytest.fixture(scope="module")
def network() -> Classifier:
    return Silent(imagenet())


def numbered(count: int) -> Classifier:
    return Silent(Classes(tuple(map(str, range(count)))))


def test_names_synonyms_and_wordnet_ids_find_their_class(network: Classifier) -> None:
    found = {
        "tabby": 281,
        "Tabby": 281,
        "great_white_shark": 2,
        "GREAT  WHITE-SHARK": 2,
        "Carcharodon carcharias": 2,  # a synonym
        "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias": 2,
        "n02123045": 281,
        "n02085620-Chihuahua": 151,
        "Cardigan": 264,  # the dog
        "cardigan": 474,  # knitted
        "crane": 517,  # as torchvision names them
        "crane bird": 134,
        "crayfish": 124,  # a class's own name before another's synonym
    }
    classes = match(list(found), network)
    assert classes.dtype == torch.int64
    assert classes.tolist() == list(found.values())


def test_every_class_finds_itself_by_name_by_wordnet_id_and_by_number(network: Classifier) -> None:
    expected = list(range(1000))
    assert match(network.classes, network).tolist() == expected
    assert match([name.replace(" ", "_") for name in network.classes], network).tolist() == expected
    assert match(network.wordnet, network).tolist() == expected
    assert match([str(number) for number in expected], network).tolist() == expected
    backwards = [str(number) for number in reversed(expected)]
    assert match(backwards, network).tolist() == expected[::-1]


def test_folders_numbered_from_one_are_not_class_numbers(network: Classifier) -> None:
    with pytest.raises(UsageError, match=r"1 of the 1 requested classes are not classes .* the first is '1'"):
        match([str(number + 1) for number in range(1000)], network, needed=[0])


def test_a_mapping_may_name_label_and_class_by_number(network: Classifier) -> None:
    labels = ["1", "2", "x"]
    assert match(labels, network, {"#0": "tabby", "2": "#0", "#2": 1}).tolist() == [281, 0, 1]
    with pytest.raises(UsageError, match="'1' and '#0' are the same label"):
        match(labels, network, {"1": "tabby", "#0": "tabby"})
    with pytest.raises(UsageError, match="'#1000', for '1', is not one class"):
        match(labels, network, {"1": "#1000"})
    with pytest.raises(UsageError, match="'#3' is not a label of the prior"):
        match(labels, network, {"#3": 1})


def test_numbers_match_only_label_sets_of_equal_length(network: Classifier) -> None:
    with pytest.raises(UsageError, match=r"10 of the 10 .* silent, which has 1000; the first is '0'.*--class-map FILE"):
        match([str(number) for number in range(10)], network)


def test_position_matches_only_without_class_names(network: Classifier) -> None:
    labels = ["dog", "cat", "bird"]
    assert match(labels, numbered(3)).tolist() == [0, 1, 2]
    with pytest.raises(UsageError, match="3 of the 3"):
        match(labels, numbered(4))
    with pytest.raises(UsageError, match="1000 of the 1000"):
        match([f"my class {number}" for number in range(1000)], network)
    with pytest.raises(UsageError, match="2 of the 3"):  # one of them was found, so the order means nothing
        match(["dog", "0", "bird"], numbered(3))


def test_a_mapping_takes_precedence(network: Classifier) -> None:
    labels = ["tabby", "my_dog", "ship", "n01440764"]
    mapping: dict[str, str | int] = {"my_dog": "Chihuahua", "ship": 510, "tabby": "n02123159"}
    assert match(labels, network, mapping).tolist() == [282, 151, 510, 0]


def test_only_requested_labels_need_a_class(network: Classifier) -> None:
    labels = ["unicorn", "tabby", "dragon"]
    assert match(labels, network, needed=[1]).tolist() == [-1, 281, -1]
    with pytest.raises(UsageError, match=r"1 of the 2 .* the first is 'dragon'"):
        match(labels, network, needed=[2, 1])
    assert match([], network).tolist() == []


@pytest.mark.parametrize(
    ("labels", "mapping", "message"),
    [
        (["unicorn", "tabby"], {}, r"1 of the 2 requested classes .* the first is 'unicorn': .*\"unicorn\": \"tench\""),
        (["panther"], {}, r"the first is 'panther' \(it can be 'cougar' or 'jaguar'\)"),
        (["CARDIGAN"], {}, r"it can be 'Cardigan' or 'cardigan'"),
        (["pet"], {"pet": "tabbby"}, r"'tabbby', for 'pet', is not one class of silent; did you mean 'tabby'"),
        (["pet"], {"pet": "panther"}, r"'panther', for 'pet', is not one class .*any of \[286, 290\]; give the number"),
        (["pet"], {"pet": 1000}, r"'pet' is class 1000, but the classifier silent has 0 to 999"),
        (["pet"], {"pet": -1}, r"'pet' is class -1"),
        (["pet"], {"pets": "tabby"}, r"'pets' is not a label of the prior; did you mean 'pet'"),
    ],
)
def test_an_unmatched_label_is_one_line_with_the_remedy(
    network: Classifier, labels: list[str], mapping: dict[str, str | int], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        match(labels, network, mapping)
    assert "\n" not in str(error.value)


def test_a_mapping_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"my dog": "Chihuahua", "Größe": 3}), encoding="utf-8")
    assert read_mapping(path) == {"my dog": "Chihuahua", "Größe": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "b",}', "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'["a"]', r"is not a JSON object; write"),
        (b'{"a": 1, "a": 2}', "'a' occurs twice"),
        (b'{"a": true}', r"the class of 'a' is true; give the name"),
        (b'{"a": 1.5}', r"the class of 'a' is 1\.5"),
        (b'{"a": ["b"]}', r"the class of 'a' is \[\"b\"\]"),
    ],
)
def test_an_invalid_mapping_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as error:
        read_mapping(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_mapping_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"map\.json cannot be read: No such file"):
        read_mapping(tmp_path / "map.json")
