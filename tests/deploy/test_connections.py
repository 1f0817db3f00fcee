"""Connections that nobody uses."""

import time
import unittest
from concurrent import futures

import grpc
from programs import Skimd

# As gateways do; a server as gRPC makes it takes the third such ping for an attack.
PINGS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
IDLE_S = 45


class Connection:
    """It knows every state that it has been in."""

    def __init__(self, address: str):
        self.states: list[grpc.ChannelConnectivity] = []
        self.channel = grpc.insecure_channel(address, PINGS)
        self.channel.subscribe(self.states.append, try_to_connect=True)
        grpc.channel_ready_future(self.channel).result(30)

    def was_lost(self) -> bool:
        at = self.states.index(grpc.ChannelConnectivity.READY)
        return len(self.states) > at + 1


class PingTest(unittest.TestCase):
    def test_connections_that_only_ping_are_kept(self):
        daemon = Skimd()
        self.addCleanup(daemon.kill)
        intolerant = grpc.server(futures.ThreadPoolExecutor(1))
        port = intolerant.add_insecure_port("127.0.0.1:0")
        intolerant.start()
        self.addCleanup(lambda: intolerant.stop(None).wait())
        kept = [Connection(address) for address in (daemon.grpc, daemon.worker)]
        control = Connection(f"127.0.0.1:{port}")
        for connection in (*kept, control):
            self.addCleanup(connection.channel.close)
        time.sleep(IDLE_S)
        self.assertTrue(control.was_lost())
        for connection in kept:
            self.assertFalse(connection.was_lost(), connection.states)


if __name__ == "__main__":
    unittest.main()
