"""demo: a page in the browser to try a model."""

import argparse
import errno
import os
import socket
import time
from typing import Any

from contrastive_ner.cli.options import (
    add_device_option,
    add_model_argument,
    add_trust_option,
    add_types_option,
    described_types,
    find_model,
)
from contrastive_ner.errors import ConfigError
from contrastive_ner.extras import need
from contrastive_ner.serving.inference import load_pipeline
from contrastive_ner.signals import StopSignals

HOST, PORT = "127.0.0.1", 7860  # gradio's own
LOOKS_EVERY = 0.2  # seconds, for a signal to stop


def add_demo_command(commands: Any) -> None:
    """Add the command demo."""
    demo = commands.add_parser(
        "demo",
        help="serve a page to try a model in the browser",
        description="Serve a page to try a model in the browser: a text in, its mentions marked, "
        "with scores; for a BINDER model also its types by their descriptions, to be changed. "
        "Needs the extra demo: pip install 'contrastive-ner[demo]'. Ctrl-C ends it.",
    )
    add_model_argument(demo)
    demo.add_argument(
        "--host",
        default=HOST,
        metavar="ADDRESS",
        help=f"address to listen on; 0.0.0.0 lets other machines in, without any password [{HOST}]",
    )
    demo.add_argument(
        "--port", type=int, default=PORT, metavar="N", help=f"port; 0: one that is free [{PORT}]"
    )
    add_types_option(demo)
    add_device_option(demo)
    add_trust_option(demo)
    demo.set_defaults(command=command_demo)


def command_demo(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C or SIGTERM."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is sent elsewhere
    need("gradio", "demo")
    from contrastive_ner.serving.demo import build_page, look

    port = free_port(arguments.host, arguments.port)  # before the model is loaded
    name = find_model(arguments)
    pipeline = load_pipeline(
        arguments.model,
        trust_remote_code=arguments.trust_remote_code,
        device=arguments.device,
    )
    if arguments.types is not None:
        types = described_types(arguments.types)
        pipeline = pipeline.model.pipeline(pipeline.tokenizer, types=types)
    page = build_page(pipeline, name)
    try:
        page.launch(
            server_name=arguments.host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            **look(),
        )
    except OSError as error:  # taken in the meantime
        raise in_use(arguments.host, port) from error
    with StopSignals("closing the page") as stop:
        print(f"http://{arguments.host}:{port}  (Ctrl-C ends it)", flush=True)
        while stop.received is None:
            time.sleep(LOOKS_EVERY)
    page.close(verbose=False)
    return 0


def free_port(host: str, port: int) -> int:
    """The port, if a server can listen on it; for 0, one that is free.

    Raises:
        ConfigError: another program listens there, or the machine has no such address.
    """
    if not 0 <= port < 2**16:
        raise ConfigError(f"port is {port}: expected 0 to {2**16 - 1}")
    try:
        # Of IPv4 alone: the page's server cannot write other addresses.
        found = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        kind, _, _, _, address = found[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return probe.getsockname()[1]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise in_use(host, port) from error
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --host "
            "and --port"
        ) from error


def in_use(host: str, port: int) -> ConfigError:
    """The error about a port that another program has."""
    return ConfigError(
        f"port {port} of {host} is in use: end the program that uses it, or pass --port N (0: any "
        "that is free)"
    )
