"""Flower with honest and malicious servers: what a client loses without validation, and that it refuses with it.

`nox -s integrations` installs flwr and runs them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("flwr")

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

import gia
from gia.federated.server import fish_class, imprint
from gia.integrations.flower import observation, validation_mod
from tests.integrations.federation import Federation

SHAPE, CLASSES, IMAGES, CLIENTS = (1, 8, 8), 10, 4, 3
LOCAL = gia.LocalTraining(epochs=1, batch_size=IMAGES, lr=0.5)
FACTS = {"image_shape": SHAPE, "batch_size": IMAGES, "local": LOCAL}

pytestmark = pytest.mark.filterwarnings("default")  # those of flwr are not about this project

Attack = Callable[[nn.Module], nn.Module]


def seeded(seed: int = 0) -> torch.Generator:
    """A source of random numbers."""
    return torch.Generator().manual_seed(seed)


def mlp() -> nn.Module:
    """The agreed model of most tests."""
    return gia.models.build("mlp", num_classes=CLASSES, image_size=8, channels=1, width=100, generator=seeded(1))


def with_imprint(model: nn.Module) -> nn.Module:
    """The model behind an imprint module with the weights of a malicious server."""
    return imprint(model, image_shape=SHAPE, bins=100, generator=seeded(2))


def with_block() -> nn.Module:
    """An agreed model that has the layers of an imprint module, with random weights."""
    model = with_imprint(mlp())
    for layer in (model.imprint.measure, model.imprint.spread):
        nn.init.kaiming_normal_(layer.weight, generator=seeded(3))
        nn.init.zeros_(layer.bias)
    return model


def marked(model: nn.Module) -> nn.Module:
    """The model with the weights of a malicious imprint module in its block."""
    return with_imprint(model.model)


def fished(model: nn.Module) -> nn.Module:
    """The model with a classifier that isolates class 0."""
    return fish_class(model, target=0)


def private(number: int) -> tuple[Tensor, Tensor]:
    """A client's images, of classes 0, 1, 2, 3."""
    digits = gia.data.load_cached("digits")
    chosen = [int((digits.labels == label).nonzero()[number]) for label in range(IMAGES)]
    return digits.images[chosen], digits.labels[chosen]


def own_batch(context: Context) -> tuple[Tensor, Tensor]:
    """The images of the client with this context."""
    return private(int(context.node_config["partition-id"]))


def client_app(agreed: nn.Module, *mods: Mod) -> ClientApp:
    """Clients that take one local step of SGD."""
    app = ClientApp(mods=list(mods))

    def train(message: Message, context: Context) -> Message:
        model, record = with_weights(agreed, message.content["arrays"]), RecordDict()
        images, labels = own_batch(context)
        update = gia.share_update(model, images, labels, local=LOCAL)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.sub_(update.gradients[name])
        record["arrays"] = ArrayRecord(model.state_dict())
        record["metrics"] = MetricRecord({"num-examples": IMAGES, "partition-id": context.node_config["partition-id"]})
        return Message(record, reply_to=message)

    app.train()(train)
    return app


def with_weights(model: nn.Module, arrays: ArrayRecord) -> nn.Module:
    """A copy of the model with these weights, loaded as users of Flower load them."""
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(arrays.to_torch_state_dict())
    return loaded


class Server(FedAvg):
    """FedAvg that keeps the replies. A malicious one sends what `attack` makes of the global model.

    Attributes:
        sent, replies: the arrays and the answers of each round.
    """

    def __init__(self, model: nn.Module, attack: Attack | None = None) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.model, self.attack = model, attack
        self.sent: list[ArrayRecord] = []
        self.replies: list[list[Message]] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if self.attack is not None:
            arrays = ArrayRecord(self.attack(with_weights(self.model, arrays)).state_dict())
        self.sent.append(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        self.replies.append(list(replies))
        return super().aggregate_train(server_round, self.replies[-1])


def run(agreed: nn.Module, *mods: Mod, attack: Attack | None = None, rounds: int = 1) -> Server:
    """A training in one process."""
    server = Server(agreed, attack)
    federation = Federation(client_app(agreed, *mods), clients=CLIENTS)
    server.start(federation, ArrayRecord(agreed.state_dict()), num_rounds=rounds)
    return server


def answered(server: Server) -> Iterator[tuple[Tensor, Message]]:
    """Private images and reply of each client, in the first round."""
    for reply in server.replies[0]:
        yield private(int(reply.content["metrics"]["partition-id"]))[0], reply


def recovered(images: Tensor, private_images: Tensor) -> list[float]:
    """PSNR in dB of each private image, against the nearest reconstruction."""
    return [max(float(gia.metrics.psnr(image[None], each[None])) for image in images) for each in private_images]


@pytest.mark.parametrize("agreed", [mlp, with_block])
@pytest.mark.parametrize("batch", [own_batch, None])
def test_an_honest_training_passes_the_validation(
    agreed: Callable[[], nn.Module], batch: Callable[[Context], tuple[Tensor, Tensor]] | None
) -> None:
    """Three rounds. If it fails, clients that validate cannot take part in a federation."""
    server = run(agreed(), validation_mod(agreed(), batch=batch), rounds=3)
    assert [[reply.has_error() for reply in replies] for replies in server.replies] == [[False] * CLIENTS] * 3
    first, *_, last = (arrays.to_numpy_ndarrays()[0] for arrays in server.sent)
    assert not np.array_equal(first, last)


@pytest.mark.parametrize(
    ("agreed", "attack", "finding"),
    [
        (mlp, with_imprint, "not built as agreed: arrays: expected 4, as the model has, got 8"),
        (with_block, marked, "The biases of imprint.measure.bias rise or fall with their index"),
        (mlp, fished, "The largest row of layers.2 is inf times its median row"),
    ],
)
def test_a_client_that_validates_refuses_a_malicious_model_with_the_report(
    agreed: Callable[[], nn.Module], attack: Attack, finding: str
) -> None:
    """If it fails, the server has a gradient of the private batch, or nobody learns why a client did not train."""
    server = run(agreed(), validation_mod(agreed(), batch=own_batch), attack=attack)
    (replies,) = server.replies
    assert [reply.error.code for reply in replies] == [ErrorCode.MOD_FAILED_PRECONDITION] * CLIENTS
    assert all(finding in reply.error.reason and "D-SNR" not in reply.error.reason for reply in replies)


def test_a_client_that_does_not_validate_gives_its_images_to_an_imprint_module() -> None:
    """The attack runs on what the server of Flower sees. Each image that is alone in its bin is recovered.

    If it fails, the update was misread, and the mod would guard against nothing.
    """
    server = run(with_block(), attack=marked)
    sent = with_weights(with_block(), server.sent[0])
    cutoffs, alone = -sent.imprint.measure.bias, 0
    for images, reply in answered(server):
        seen = observation(sent, reply.content["arrays"], **FACTS)
        found = gia.attacks.robbing_the_fed(sent, seen, generator=seeded()).images
        bins = torch.bucketize(images.mean((1, 2, 3)), cutoffs)
        for i, psnr in enumerate(recovered(found, images)):
            if (bins == bins[i]).sum() == 1:
                alone += 1
                assert psnr > 60  # as in the example of robbing_the_fed
    assert alone > CLIENTS * IMAGES / 2


def test_a_client_that_does_not_validate_gives_the_image_of_the_fished_class_away() -> None:
    """Class 0, by the quotient of weights and biases in the first layer; the other images have no gradient there."""
    server = run(mlp(), attack=fished)
    sent = with_weights(mlp(), server.sent[0])
    for images, reply in answered(server):
        seen = observation(sent, reply.content["arrays"], **FACTS)
        target, *others = recovered(gia.attacks.linear_layer(sent, seen, generator=seeded()).images, images)
        assert target > 60  # as in the example of linear_layer
        assert max(others) < 20


class Node:
    """One client with the mod of `agreed`; `calls` counts how often its own code ran."""

    def __init__(self, agreed: nn.Module, **settings: Any) -> None:
        self.mod, self.calls = validation_mod(agreed, **settings), 0
        (self.context,) = Federation(ClientApp(), clients=1).contexts.values()

    def __call__(self, *records: ArrayRecord, kind: str = "train") -> str:
        """Send these records; the reason of a refusal, or an empty string."""
        content = RecordDict({f"arrays{i}": record for i, record in enumerate(records)})
        message = Message(content, self.context.node_id, kind)
        message.metadata.__dict__["_message_id"] = "1"
        reply = self.mod(message, self.context, self.train)
        return reply.error.reason if reply.has_error() else ""

    def train(self, message: Message, _: Context) -> Message:
        self.calls += 1
        return Message(RecordDict(), reply_to=message)


def record_of(model: nn.Module) -> ArrayRecord:
    """The weights under their names."""
    return ArrayRecord(model.state_dict())


def listed(model: nn.Module) -> ArrayRecord:
    """The weights as a NumPyClient gets them."""
    return ArrayRecord([value.numpy() for value in model.state_dict().values()])


@pytest.mark.parametrize("form", [record_of, listed])
def test_models_are_read_under_their_names_and_as_lists(form: Callable[[nn.Module], ArrayRecord]) -> None:
    """A list is what Flower's NumPyClient takes. If it fails, such clients refuse all models or check none."""
    node = Node(mlp())
    assert node(form(mlp())) == ""
    assert "The largest row of layers.2" in node(form(fished(mlp())))
    assert node.calls == 1


def test_a_numpy_client_is_guarded_and_its_update_observed() -> None:
    """The older interface of Flower. If it fails, most clients that exist cannot take the mod."""

    class Echo(NumPyClient):
        def fit(
            self, parameters: list[np.ndarray], config: dict[str, Any]
        ) -> tuple[list[np.ndarray], int, dict[str, Any]]:
            return [value - 1 for value in parameters], IMAGES, {}

    federation = Federation(ClientApp(lambda _: Echo().to_client(), mods=[validation_mod(mlp())]), clients=1)
    replies = []
    for model in (mlp(), fished(mlp())):
        content = RecordDict({"fitins.parameters": listed(model), "fitins.config": ConfigRecord()})
        replies += federation.send_and_receive([Message(content, *federation.contexts, "train")])
    update = replies[0].content.array_records["fitres.parameters"]
    for gradient in observation(mlp(), update, **FACTS).gradients.values():
        torch.testing.assert_close(gradient, torch.ones_like(gradient))
    assert replies[1].error.code == ErrorCode.MOD_FAILED_PRECONDITION


def test_a_later_model_is_compared_with_the_last_accepted_one_of_the_stored_context() -> None:
    """A deployed client is a new process for each message. If it fails, drift is never found there."""
    node, other = Node(mlp()), Node(mlp())
    moved = mlp()
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1.9)
    assert other(record_of(moved)) == ""
    assert node(record_of(mlp())) == ""
    node.mod = validation_mod(mlp())
    assert "layers.0 moved by 0.9 of its size since the last accepted round" in node(record_of(moved))
    assert node(record_of(mlp())) == ""


def test_only_messages_that_ask_for_training_are_judged() -> None:
    """If it fails, a client evaluates no model, or trains by a second name without a check."""
    node = Node(mlp())
    assert node(record_of(fished(mlp())), kind="evaluate") == ""
    assert node(record_of(fished(mlp())), kind="train.again")
    assert node.calls == 1


def test_a_message_whose_model_cannot_be_told_is_refused() -> None:
    """If it fails, a server passes by sending the malicious model beside an honest one."""
    node, named = Node(mlp()), Node(mlp(), record="arrays1")
    assert node() == "message: expected one array record, got []"
    assert "expected one array record, got ['arrays0', 'arrays1']" in node(record_of(mlp()), record_of(mlp()))
    assert named(record_of(mlp())) == "message: expected the array record 'arrays1', got ['arrays0']"
    assert "largest row" in named(record_of(mlp()), record_of(fished(mlp())))
    assert node.calls == named.calls == 0


def test_arrays_that_another_reader_would_take_for_another_model_are_refused() -> None:
    """By name they are honest; a client that loads them as a list gets the second layer in the place of the first."""
    square = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    state = square.state_dict()
    swapped = ArrayRecord({name: state[name] for name in reversed(state)})
    assert "arrays: expected '1.weight' in place 0, got '2.weight'" in Node(square)(swapped)
    wrong = listed(square)
    wrong["1"] = ArrayRecord([np.zeros((4, 5), dtype=np.float32)])["0"]
    assert "arrays['2.weight']: expected the shape (4, 4), got (4, 5)" in Node(square)(wrong)
    wrong["1"] = ArrayRecord([np.full((4, 4), "1")])["0"]
    assert "arrays: expected numbers, got dtype <U1" in Node(square)(wrong)
    wrong["1"] = ArrayRecord([np.full((4, 4), np.nan)])["0"]
    assert "2.weight holds 16 weights that are NaN or infinite" in Node(square)(wrong)


def test_a_mistyped_limit_is_named_when_the_mod_is_made() -> None:
    """If it fails, the error reaches the server in the first round, and nobody on the client's side."""
    with pytest.raises(ValueError, match="limits"):
        validation_mod(mlp(), limits={"drifts": 1.0})
