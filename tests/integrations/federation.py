"""A Flower federation in one process: its in-memory grid, where sending a message runs the clients it is for."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import (
    HEARTBEAT_INTERVAL_INF,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    ErrorCode,
)
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid


class Federation(InMemoryGrid):
    """Flower's state and checks of messages, with clients that answer at once: no Ray, no thread, no socket.

    Args:
        app: of every client; a client's number is the "partition-id" of its context.
        clients: how many there are.
    """

    def __init__(self, app: ClientApp, *, clients: int) -> None:
        super().__init__(LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()))
        run = self.state.create_run("", "", "", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP)
        self.set_run(self.state.get_run_info(run_ids=[run])[0])
        TaskIdentity.task_id, TaskIdentity.run_id = self.run.primary_task_id, run
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self.app, self.contexts = app, {}
        for number in range(clients):
            node = self.state.create_node(
                NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, secrets.token_bytes(32), HEARTBEAT_INTERVAL_INF
            )
            self.state.acknowledge_node_heartbeat(node, HEARTBEAT_INTERVAL_INF)
            config = {"partition-id": number, "num-partitions": clients}
            self.contexts[node] = Context(run, node, config, RecordDict(), {})

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send the messages, and store the replies of the clients."""
        sent = super().push_messages(messages)
        for node, context in self.contexts.items():
            for message in self.state.get_message_ins(node, limit=None):
                try:
                    reply = self.app(message, context)
                except Exception as error:  # as Flower's own runtime answers for a client that failed
                    reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, repr(error)), reply_to=message)
                reply.metadata.__dict__["_message_id"] = str(uuid4())
                assert self.state.store_message_res(reply), reply
        return sent
