"""The handlers of `/api/v1/explain`: where mail to an address would go, and why.

Every worker is asked; the first that answers speaks for the node, and the connections and the obstacles of all are put
together. A session up to RCPT is for POST alone, since it does something out there: one worker makes it.

Fails: 400 for an address that is none, 503 when no worker answers.
"""

from typing import Annotated

from litestar import Response, get, post
from litestar.exceptions import ClientException
from litestar.params import JSONBody, QueryParameter
from msgspec import structs
from msgspec.json import Decoder

from angarium.admin.model import Explanation, Inquiry, TrialOrder
from angarium.admin.services import Services, ServicesDependency, missing, results
from angarium.admin.workers import Answer, Question

__all__ = ["HANDLERS"]

LOOK_UP_S = 20.0  # names may take so long
TRIAL_S = 60.0

_EXPLANATION: Decoder[Explanation] = Decoder(Explanation)


@get("/api/v1/explain", tags=["explain"])
async def explain(
    *,
    services: ServicesDependency,
    address: Annotated[str, QueryParameter(description="a recipient", min_length=1, max_length=1000)],
    reverse_path: Annotated[
        str, QueryParameter(name="from", description="reverse path; empty: the null one", max_length=1000)
    ] = "",
    tenant: Annotated[str, QueryParameter(description="whose mail it is", max_length=255)] = "",
    listener: Annotated[str, QueryParameter(description="which listener accepted it", max_length=255)] = "",
    log_in: Annotated[str, QueryParameter(description="who had authenticated", max_length=255)] = "",
) -> Response[Explanation]:
    """Where mail to an address would go: route, hosts, TLS policy, limits, connections, and what would block it now."""
    inquiry = Inquiry(address=address, reverse_path=reverse_path, tenant=tenant, listener=listener, log_in=log_in)
    answers = await _ask(services, inquiry)
    return Response(_merged(answers), headers=missing(answers))


@post("/api/v1/explain", tags=["explain"], status_code=200)
async def explain_and_try(services: ServicesDependency, data: JSONBody[TrialOrder]) -> Response[Explanation]:
    """The same, and a session up to RCPT, as for mail; none is sent."""
    inquiry = Inquiry(
        address=data.address,
        reverse_path=data.reverse_path,
        tenant=data.tenant,
        listener=data.listener,
        log_in=data.log_in,
    )
    answers = await _ask(services, inquiry)
    question = Question(op="explain", inquiry=structs.replace(inquiry, trial=True))
    tried = await services.workers.ask_any(question, _EXPLANATION, patience_s=LOOK_UP_S + TRIAL_S)
    merged = structs.replace(_merged(answers), trial=results([tried])[0].trial)
    return Response(merged, headers=missing(answers))


async def _ask(services: Services, inquiry: Inquiry) -> list[Answer[Explanation]]:
    answers = await services.workers.ask(Question(op="explain", inquiry=inquiry), _EXPLANATION, patience_s=LOOK_UP_S)
    refusal = next((answer.error for answer in answers if "is not an address" in (answer.error or "")), None)
    if refusal is not None:
        raise ClientException(detail=refusal)
    return answers


def _merged(answers: list[Answer[Explanation]]) -> Explanation:
    parts = results(answers)
    return structs.replace(
        parts[0],
        workers=[worker for part in parts for worker in part.workers],
        blocks=list(dict.fromkeys(block for part in parts for block in part.blocks)),
        trial=None,
    )


HANDLERS = (explain, explain_and_try)
