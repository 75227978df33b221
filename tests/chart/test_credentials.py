"""Where credentials come from, and how the program gets them."""

import pytest

import policy
from chartlib import CHART, ROOT, load, load_all, overlay, render, render_texts

DIR = "/run/secrets/baton-jumpcloud"
DEFAULT = load(CHART / "ci" / "default-values.yaml")
ACCOUNT = {"credentials": {"jumpcloudAuth": "serviceAccount"}}
RENAMED = {"credentials": {"keys": {"clientId": "id", "clientSecret": "secret", "apiKey": "key"}}}


def ci(name: str) -> dict:
    return load(CHART / "ci" / f"{name}-values.yaml")


def daemon(values: dict) -> tuple[dict, dict]:
    """The spec of the daemon's pod, and its container."""
    spec = policy.one(render(values), "Deployment")["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


def volume(spec: dict, name: str) -> dict | None:
    return next((volume for volume in spec["volumes"] if volume["name"] == name), None)


def files(spec: dict) -> dict[str, str]:
    """The keys of the mounted Secret by file."""
    (source,) = volume(spec, "credentials")["projected"]["sources"]
    return {item["path"]: item["key"] for item in source["secret"]["items"]}


def from_secret(container: dict) -> dict[str, tuple[str, bool]]:
    """Variables out of a Secret: the key, and whether it may be absent."""
    found = {}
    for name, variable in policy.environment(container).items():
        if ref := variable.get("valueFrom", {}).get("secretKeyRef"):
            found[name] = (ref["key"], ref.get("optional", False))
    return found


def test_files_by_default():
    spec, container = daemon(DEFAULT)
    assert set(files(spec)) == {"BATON_CLIENT_ID", "BATON_CLIENT_SECRET", "BATON_API_KEY"}
    variables = policy.environment(container)
    for name in files(spec):
        assert variables[f"{name}_FILE"]["value"] == f"{DIR}/{name}"
        assert name not in variables
    assert from_secret(container) == {"BATON_ORG_ID": ("BATON_ORG_ID", True), "BATON_PROVISIONING": ("BATON_PROVISIONING", True)}
    assert not [source for source in container["envFrom"] if "secretRef" in source]


@pytest.mark.parametrize("mode", ["file", "env"])
def test_the_vendors_secret_is_taken_as_it_is(mode):
    secret, deployment = load_all((ROOT / "tests" / "chart" / "fixtures" / "vendor.yaml").read_text())
    values = overlay(DEFAULT, {"credentials": {"existingSecret": secret["metadata"]["name"], "mode": mode}})
    spec, container = daemon(values)
    if mode == "env":
        # As the vendor's own Deployment does it.
        theirs = deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"]
        assert container["envFrom"][:1] == theirs
        taken = set(secret["stringData"])
    else:
        taken = set(files(spec).values()) | {key for key, _ in from_secret(container).values()}
        needed = set(files(spec).values()) | {key for key, optional in from_secret(container).values() if not optional}
        assert needed <= secret["stringData"].keys()
    assert secret["stringData"].keys() <= taken
    labels = policy.one(render(values), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["template"]["metadata"]["labels"].items() <= labels.items()


def test_the_vendors_manifests_are_valid_once_their_values_are_quoted():
    objects = load_all((ROOT / "tests" / "chart" / "fixtures" / "vendor.yaml").read_text())
    policy.strictly_valid(objects, "1.25.0")
    for document, path in ((objects[0], ("stringData", "BATON_PROVISIONING")), (objects[1], ("spec", "template", "metadata", "labels", "baton"))):
        *parents, last = path
        for name in parents:
            document = document[name]
        document[last] = True
    for document in objects:
        with pytest.raises(Exception, match="True is not of type 'string'"):
            policy.strictly_valid([document], "1.25.0")


def test_config_goes_before_the_secret():
    values = overlay(DEFAULT, {"config": {"orgId": "0" * 24, "provisioning": False}})
    _, container = daemon(values)
    assert not from_secret(container)
    data = policy.one(render(values), "ConfigMap")["data"]
    assert data["BATON_ORG_ID"] == "0" * 24 and data["BATON_PROVISIONING"] == "false"
    _, container = daemon(overlay(values, {"credentials": {"mode": "env"}}))
    # Of two sources with the same key, the later one wins.
    assert [list(source)[0] for source in container["envFrom"]] == ["secretRef", "configMapRef"]


def test_renamed_keys_as_files():
    spec, container = daemon(overlay(DEFAULT, RENAMED))
    assert files(spec) == {"id": "id", "secret": "secret", "key": "key"}
    assert policy.environment(container)["BATON_API_KEY_FILE"]["value"] == f"{DIR}/key"


def test_renamed_keys_as_variables_come_one_by_one():
    spec, container = daemon(overlay(DEFAULT, overlay(RENAMED, {"credentials": {"mode": "env"}})))
    assert from_secret(container) == {
        "BATON_CLIENT_ID": ("id", False),
        "BATON_CLIENT_SECRET": ("secret", False),
        "BATON_API_KEY": ("key", False),
        "BATON_ORG_ID": ("BATON_ORG_ID", True),
        "BATON_PROVISIONING": ("BATON_PROVISIONING", True),
    }
    assert not [source for source in container["envFrom"] if "secretRef" in source]
    assert volume(spec, "credentials") is None


def test_a_service_account_of_jumpcloud_instead_of_a_key():
    spec, container = daemon(overlay(DEFAULT, ACCOUNT))
    assert set(files(spec)) == {"BATON_CLIENT_ID", "BATON_CLIENT_SECRET", "BATON_JUMPCLOUD_CLIENT_SECRET"}
    assert from_secret(container)["BATON_JUMPCLOUD_CLIENT_ID"] == ("BATON_JUMPCLOUD_CLIENT_ID", False)
    assert "BATON_API_KEY_FILE" not in policy.environment(container)


def test_any_volume_can_hold_the_files():
    spec, container = daemon(ci("csi-volume"))
    mounted = volume(spec, "credentials")
    assert mounted["csi"]["volumeAttributes"]["secretProviderClass"] == "baton-jumpcloud"
    variables = policy.environment(container)
    assert variables["BATON_JUMPCLOUD_CLIENT_SECRET_FILE"]["value"] == f"{DIR}/jumpcloud-client-secret"
    assert not from_secret(container), "there is no Secret"


def test_a_created_secret_holds_the_values_and_nothing_else_does():
    objects = render(ci("created-secret"))
    secret = policy.one(objects, "Secret")
    assert secret["stringData"].keys() == {"BATON_CLIENT_ID", "BATON_CLIENT_SECRET", "BATON_API_KEY"}
    others = [document for document in objects if document["kind"] != "Secret"]
    assert "for-a-trial" not in str(others)
    spec = policy.one(objects, "Deployment")["spec"]["template"]["spec"]
    assert volume(spec, "credentials")["projected"]["sources"][0]["secret"]["name"] == secret["metadata"]["name"]


def test_a_created_secret_follows_renamed_keys():
    values = overlay(ci("created-secret"), RENAMED)
    assert policy.one(render(values), "Secret")["stringData"].keys() == {"id", "secret", "key"}


def test_a_changed_value_rolls_the_pods():
    def annotations(values):
        return policy.one(render(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]

    before = annotations(ci("created-secret"))
    key = annotations(overlay(ci("created-secret"), {"credentials": {"values": {"apiKey": "another"}}}))
    setting = annotations(overlay(ci("created-secret"), {"config": {"logLevel": "debug"}}))
    assert before["checksum/credentials"] != key["checksum/credentials"] and before["checksum/config"] == key["checksum/config"]
    assert before["checksum/config"] != setting["checksum/config"]
    # A Secret that the chart does not own has no checksum that could be right.
    assert "checksum/credentials" not in annotations(DEFAULT)


def test_reloader_watches_the_secret():
    deployment = policy.one(render(ci("env-mode")), "Deployment")
    assert deployment["metadata"]["annotations"] == {"secret.reloader.stakater.com/reload": "baton-jumpcloud-secrets"}


def test_the_watch_on_the_secret_knows_other_keys():
    _, container = daemon(ci("renamed-keys"))
    variables = policy.environment(container)
    assert variables["BATON_KUBERNETES_SECRET"]["value"] == "baton-jumpcloud-secrets"
    assert variables["BATON_KUBERNETES_SECRET_KEYS"]["value"] == "api-key=jumpcloud-key,client-id=c1-id,client-secret=c1-secret"
    _, container = daemon(ci("kubernetes"))
    assert "BATON_KUBERNETES_SECRET_KEYS" not in policy.environment(container)


@pytest.mark.parametrize(
    ("values", "warned"),
    [("created-secret", "keeps them in its release record"), ("default", None), ("env-mode", None)],
)
def test_the_notes_warn_of_values_in_the_release_record(values, warned):
    notes = render_texts(ci(values))["baton-jumpcloud/templates/NOTES.txt"]
    assert ("WARNING" in notes) == bool(warned) and (warned or "") in notes


def test_the_notes_say_when_only_a_restart_helps():
    notes = render_texts(ci("env-mode-renamed-keys"))["baton-jumpcloud/templates/NOTES.txt"]
    assert "take effect at the next restart only" in notes
    notes = render_texts(ci("env-mode"))["baton-jumpcloud/templates/NOTES.txt"]
    assert "take effect" not in notes
