"""`yuan plan`: its arguments and help."""

from pathlib import Path
from typing import Annotated

import typer

from yuan_cli.options import ClusterOption, JsonOption, ManifestArgument, OverridesArgument, cluster_of

PLAN_HELP = """Predict a training before it runs: stages, memory, time, speed, days, and what is wrong with it.

Takes pretrain, finetune and plan manifests; what a manifest does not say of the devices is measured here.

\b
  yuan plan configs/jobs/pretrain-102b.yaml -f configs/clusters/96-gpus.yaml
  yuan plan configs/jobs/pretrain-demo.yaml topology.parallel.stages=auto --picture schedule.svg
  yuan plan configs/jobs/pretrain-51b.yaml -f configs/clusters/96-gpus.yaml --sweep
"""


def add_commands(app: typer.Typer) -> None:
    """Adds `yuan plan`."""

    @app.command("plan", help=PLAN_HELP)
    def plan_command(
        context: typer.Context,
        manifest: ManifestArgument,
        overrides: OverridesArgument = None,
        *,
        cluster: ClusterOption = None,
        json: JsonOption = False,
        sweep: Annotated[bool, typer.Option("--sweep", help="Compare all topologies of the same devices.")] = False,
        picture: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Draw the schedule: FILE.png or FILE.svg.", show_default=False),
        ] = None,
        cost_model: Annotated[
            str | None,
            typer.Option(
                metavar="exact|paper",
                help="Count every matrix, or by the paper's formulas, in place of the manifest's plan.cost_model.",
                show_default=False,
            ),
        ] = None,
    ) -> int:
        from yuan_cli.planning import PlanOptions, plan_manifest  # noqa: PLC0415

        options = PlanOptions(as_json=json, sweep=sweep, picture=picture, cost_model=cost_model)
        return plan_manifest(manifest, overrides or [], cluster_of(context, cluster), options)

    del plan_command  # typer keeps it
