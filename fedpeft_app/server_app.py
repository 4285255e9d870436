"""The ServerApp: parse, call the roll, drive the rounds, export."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run one federation from roll call to exported adapter."""
    from fedpeft_app.actors import replace_dead_actors
    from fedpeft_app.backbone.one_scan import scan_models_once
    from fedpeft_app.config import parse
    from fedpeft_app.uncollected import uncollected

    with uncollected("fedpeft_app.coordinator"):
        scan_models_once()
        from fedpeft_app.coordinator import coordinate
    from fedpeft_app.mailboxes import sort_mail
    from fedpeft_app.names import NAME_CHECKS
    from fedpeft_app.watchdog import follow_launcher

    follow_launcher()
    replace_dead_actors()
    sort_mail(grid)
    config = parse(dict(context.run_config), NAME_CHECKS)
    coordinate(grid, config, context.run_id)
