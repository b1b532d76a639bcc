"""How the model client finds its endpoint, its model and its key, and what it says when one is missing."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from devhost.scripted_model import ScriptedModel
from shared.errors import StepFailed
from shared.model_client import ModelClient, ModelRequest
from tests.devhost_serving import serving
from tests.model_endpoints import misbehaving, model_at, saying


@pytest.mark.parametrize("endpoint", ["", "model.example/v1", "ftp://model.example", "https://"])
async def test_no_endpoint_and_no_model_say_what_to_set(endpoint: str) -> None:
    """A fresh deployment's first error must name the setting."""
    async with model_at(endpoint) as model:
        failed = await model.failure()
        assert (failed.code, failed.retryable) == ("model_not_configured", False)
        assert "TRUESTOP_MODEL_ENDPOINT" in failed.detail
    async with model_at("http://127.0.0.1:1/v1", default_model=None) as model:
        failed = await model.failure()
        assert failed.code == "model_not_configured"
        assert "TRUESTOP_MODEL" in failed.detail


async def test_a_probe_says_whether_the_endpoint_answers() -> None:
    """Health must not cost tokens; an endpoint that lists no models is up all the same."""
    async with serving(ScriptedModel()) as base, model_at(f"{base}/dev/model/v1") as model:
        await model.client.probe()
        assert await model.log() == []
    async with misbehaving(saying(b"{}", "404 No", "application/json")) as base, model_at(base) as other:
        await other.client.probe()
    async with misbehaving(saying(b"{}", "401 No", "application/json")) as base, model_at(base) as other:
        with pytest.raises(StepFailed, match="TRUESTOP_MODEL_API_KEY"):
            await other.client.probe()


async def test_only_our_settings_say_who_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's OPENAI_* variables must not reach another endpoint, nor a proxy a local one."""
    seen: list[str] = []
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "ambient-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(f"{name.decode()}: {value.decode()}" for name, value in scope["headers"])
        await ScriptedModel()(scope | {"path": "/dev/model/v1/chat/completions"}, receive, send)

    async with serving(application) as base, model_at(f"{base}/v1", api_key=None) as model:
        await model.ask("[[say=x]]")
    assert "authorization: Bearer none" in seen
    assert not [line for line in seen if "ambient-secret" in line]


class Credential:
    """Stands in for azure-identity's."""

    closed = False
    error: Exception | None = None

    async def get_token(self, scope: str) -> Any:
        if self.error is not None:
            raise self.error
        return types.SimpleNamespace(token=f"token for {scope}")

    async def close(self) -> None:
        Credential.closed = True


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> type[Credential]:
    module = types.ModuleType("azure.identity.aio")
    module.DefaultAzureCredential = Credential  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "azure.identity.aio", module)
    monkeypatch.setattr(Credential, "closed", False)
    monkeypatch.setattr(Credential, "error", None)
    return Credential


async def test_an_azure_endpoint_is_called_by_its_v1_api_as_our_identity(identity: type[Credential]) -> None:
    """On Azure there are no keys; the resource's plain address must do."""
    client = ModelClient(endpoint="https://mine.openai.azure.com/", api_key=None, default_model="deployed")
    opened = await client._opened()
    assert str(opened.base_url) == "https://mine.openai.azure.com/openai/v1/"
    assert opened._api_key_provider is not None
    assert await opened._api_key_provider() == "token for https://cognitiveservices.azure.com/.default"
    assert client._arguments(ModelRequest([], max_tokens=5))["max_completion_tokens"] == 5
    await client.close()
    assert identity.closed


async def test_an_identity_that_fails_is_a_step_failure(
    identity: type[Credential], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing role is for people to fix; a metadata service that is down passes."""
    from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError

    for error, code in [
        (ClientAuthenticationError("no"), "model_rejected"),
        (ServiceRequestError("x"), "model_unavailable"),
    ]:
        monkeypatch.setattr(Credential, "error", error)
        async with model_at("https://mine.openai.azure.com", api_key=None) as model:
            assert (await model.failure()).code == code


async def test_without_azure_identity_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is optional outside Azure."""
    monkeypatch.setitem(sys.modules, "azure.identity.aio", None)
    async with model_at("https://mine.openai.azure.com", api_key=None) as model:
        failed = await model.failure()
    assert failed.code == "model_not_configured"
    assert "TRUESTOP_MODEL_API_KEY" in failed.detail
