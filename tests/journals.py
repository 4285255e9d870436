"""What journals of runs tell, for tests."""

from fedpeft_app.runs.directory import RunFolder


def processes(folder: RunFolder) -> set[str]:
    """Say which processes trained.

    Args:
        folder: The run.
    """
    return {
        node["process"]
        for event in folder.events()
        if event["event"] == "round_finished"
        for node in event["nodes"].values()
    }
