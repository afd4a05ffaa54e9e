from cli.embedded.supervisor import inherited


def test_a_trace_that_writes_tokens_is_not_handed_to_the_services() -> None:
    assert inherited({"GRPC_TRACE": "all", "GRPC_VERBOSITY": "debug", "PATH": "/bin"}) == {
        "GRPC_VERBOSITY": "debug",
        "PATH": "/bin",
    }
