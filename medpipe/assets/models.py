"""The base model, the four fine-tuned roles, the audit of the reward, and the co-trained team."""

from collections.abc import Iterator, Sequence

import dagster as dg
from dagster import AssetExecutionContext

from medpipe.assets.automation import WHEN_INPUTS_CHANGE
from medpipe.assets.cluster import PLACE, tags_of
from medpipe.assets.corpus import OWNERS
from medpipe.assets.present import HANDED_OVER, check_specs
from medpipe.assets.sagemaker import sagemaker_assets
from medpipe.config import Settings
from medpipe.launch.devices import Place, fine_tuned_together, place_co_training, place_role, place_team
from medpipe.models.folder import stamp
from medpipe.resources import Launcher, Profile
from medpipe.schema import ROLES, Learner, Ref, speaker_of
from medpipe.tasks import TASKS

TEACHES: dict[Learner, str] = {
    "planner": "Learns to name the kind of question, its focus and a plan.",
    "researcher": "Learns to pick and cite the evidence that bears on the question.",
    "analyst": "Learns to reason from evidence to a conclusion.",
    "reporter": "Learns to write the answer for the reader, with due caution.",
    "agent": "One agent, fine-tuned on the same rows, that answers alone from the same evidence: what the team has to beat.",
}
DATA = {"train": dg.AssetIn(["splits", "train"]), "validation": dg.AssetIn(["splits", "validation"])}
COTRAIN = {"train": DATA["train"], "cotrain": dg.AssetIn(["splits", "cotrain"]), "base": dg.AssetIn(["models", "base"])}


def model_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """The model assets; the profile at load time decides which pool (a GPU, or the CPU) each one claims.

    Where it trains on SageMaker, one job makes all but the audit.
    """
    if settings.aws.launcher == "sagemaker":
        return [audit, sagemaker_assets(settings)]
    judge = [verifier_asset(settings)] if settings.maporl.verifier == "learned" else []
    tuned = [fine_tuned_assets(settings, place, learners) for place, learners in fine_tuned_together(settings)]
    return [base, *tuned, audit, *judge, team_asset(settings), lone_asset(settings)]


@dg.asset(
    key=["models", "base"],
    group_name="models",
    kinds={"huggingface"},
    owners=OWNERS,
    dagster_type=HANDED_OVER,
    code_version=TASKS["base"].version(),
    check_specs=check_specs("models/base"),
)
def base(context: AssetExecutionContext, launcher: Launcher, profile: Profile) -> dg.MaterializeResult:
    """The small language model that the four roles share, as safetensors."""
    return launcher.make(context, "models/base", "base", {}, extra=stamp(profile.settings().model))


def fine_tuned_assets(settings: Settings, place: Place, learners: Sequence[Learner]) -> dg.AssetsDefinition:
    """The learners that live on one device: an asset each, any of them selectable, made by one step in one pass."""
    names = {learner: f"models/{learner}" for learner in learners}
    outs = {
        learner: dg.AssetOut(
            key=["models", learner], group_name="models", kinds={"pytorch", "huggingface"}, owners=OWNERS, dagster_type=HANDED_OVER,
            code_version=TASKS["sft"].version(),
            description=TEACHES[learner], tags={"role": learner}, automation_condition=WHEN_INPUTS_CHANGE, is_required=False,
        )
        for learner in learners
    }  # fmt: skip

    @dg.multi_asset(
        name=f"fine_tune_{place.pool}", outs=outs, ins={**DATA, "base": dg.AssetIn(["models", "base"])}, can_subset=True,
        check_specs=[spec for name in names.values() for spec in check_specs(name)], pool=place.pool, op_tags=tags_of(place),
    )  # fmt: skip
    def fine_tune(
        context: AssetExecutionContext, launcher: Launcher, profile: Profile, train: Ref, validation: Ref, base: Ref
    ) -> Iterator[dg.MaterializeResult]:
        """LoRA adapters on the base, each fine-tuned on its own turns of the same transcripts."""
        inputs = {"splits/train": train, "splits/validation": validation, "models/base": base}
        selected = [names[learner] for learner in learners if dg.AssetKey(["models", learner]) in context.selected_asset_keys]
        yield from launcher.make_together(context, selected, "sft", inputs, place_role(profile.settings(), speaker_of(learners[0])))

    return fine_tune


@dg.asset(
    key=["rewards", "audit"], group_name="rewards", kinds={"python"}, owners=OWNERS, dagster_type=HANDED_OVER,
    code_version=TASKS["audit"].version(),
    ins={"train": DATA["train"]}, check_specs=check_specs("rewards/audit"), automation_condition=WHEN_INPUTS_CHANGE,
    op_tags={PLACE: "cpu"},  # it keeps all cores busy: beside a training on the CPU both would take longer
)  # fmt: skip
def audit(context: AssetExecutionContext, launcher: Launcher, train: Ref) -> dg.MaterializeResult:
    """The reward under attack: honest answers are spoilt in every known way, and none of it may pay."""
    return launcher.make(context, "rewards/audit", "audit", {"splits/train": train})


ROLES_IN = {role: dg.AssetIn(["models", role]) for role in ROLES}


def verifier_asset(settings: Settings) -> dg.AssetsDefinition:
    """The learned verifier; in the graph where the profile asks for it."""

    @dg.asset(
        key=["models", "verifier"], group_name="models", kinds={"pytorch", "huggingface"}, owners=OWNERS, dagster_type=HANDED_OVER,
        code_version=TASKS["verifier"].version(),
        ins={**DATA, "base": dg.AssetIn(["models", "base"]), **ROLES_IN}, check_specs=check_specs("models/verifier"),
        pool=place_team(settings).pool, op_tags=tags_of(place_team(settings)), automation_condition=WHEN_INPUTS_CHANGE,
    )  # fmt: skip
    def verifier(
        context: AssetExecutionContext, launcher: Launcher, profile: Profile, train: Ref, validation: Ref, base: Ref, **roles: Ref
    ) -> dg.MaterializeResult:
        """Learns from answers of the fine-tuned roles to tell right ones from wrong ones."""
        inputs = {"splits/train": train, "splits/validation": validation, "models/base": base}
        inputs |= {f"models/{role}": ref for role, ref in roles.items()}
        return launcher.make(context, "models/verifier", "verifier", inputs, place_team(profile.settings()))

    return verifier


def team_asset(settings: Settings) -> dg.AssetsDefinition:
    """The team: four adapters that went on learning together."""
    judge = {"verifier": dg.AssetIn(["models", "verifier"])} if settings.maporl.verifier == "learned" else {}

    @dg.asset(
        key=["models", "maporl_team"], group_name="models", kinds={"pytorch", "huggingface"}, owners=OWNERS, dagster_type=HANDED_OVER,
        code_version=TASKS["maporl"].version(),
        ins={**COTRAIN, "audit": dg.AssetIn(["rewards", "audit"]), **ROLES_IN, **judge},
        check_specs=check_specs("models/maporl_team"), automation_condition=WHEN_INPUTS_CHANGE,
        pool=place_co_training(settings).pool, op_tags=tags_of(place_co_training(settings)),
    )  # fmt: skip
    def maporl_team(
        context: AssetExecutionContext, launcher: Launcher, profile: Profile, train: Ref, cotrain: Ref, audit: Ref, base: Ref, **models: Ref
    ) -> dg.MaterializeResult:
        """The four roles, co-trained by MAPoRL under the medical reward (arXiv 2502.18439)."""
        inputs = {"splits/train": train, "splits/cotrain": cotrain, "rewards/audit": audit, "models/base": base}
        inputs |= {f"models/{name}": ref for name, ref in models.items()}
        return launcher.make(context, "models/maporl_team", "maporl", inputs, place_co_training(profile.settings()))

    return maporl_team


def lone_asset(settings: Settings) -> dg.AssetsDefinition:
    """The baseline of co-training: one agent, by the same code, on as many drawn tokens as the team."""
    judge = {"verifier": dg.AssetIn(["models", "verifier"])} if settings.maporl.verifier == "learned" else {}
    place = place_team(settings)

    @dg.asset(
        key=["models", "agent_rl"], group_name="models", kinds={"pytorch", "huggingface"}, owners=OWNERS, dagster_type=HANDED_OVER,
        code_version=TASKS["maporl"].version(),
        ins={
            **COTRAIN, "audit": dg.AssetIn(["rewards", "audit"]), "agent": dg.AssetIn(["models", "agent"]),
            "maporl_team": dg.AssetIn(["models", "maporl_team"]), **judge,
        },
        check_specs=check_specs("models/agent_rl"), automation_condition=WHEN_INPUTS_CHANGE, pool=place.pool, op_tags=tags_of(place),
    )  # fmt: skip
    def agent_rl(
        context: AssetExecutionContext, launcher: Launcher, profile: Profile, train: Ref, cotrain: Ref, audit: Ref, base: Ref, **models: Ref
    ) -> dg.MaterializeResult:
        """One agent after reinforcement learning alone, on as many drawn tokens as the team: what co-training has to beat."""
        inputs = {"splits/train": train, "splits/cotrain": cotrain, "rewards/audit": audit, "models/base": base}
        inputs |= {f"models/{name}": ref for name, ref in models.items()}
        return launcher.make(context, "models/agent_rl", "maporl", inputs, place_team(profile.settings()))

    return agent_rl
