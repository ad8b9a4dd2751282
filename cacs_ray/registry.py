"""Versions of bundles in MLflow's model registry: which one is served, and before.

A version is one bundle: its files, the digest of its manifest as a tag in the
database, and aliases that say what it is. `champion` is the single switch. Files
are only ever read as data: nothing from the artifact store is executed, and a
bundle whose files do not have the digests of the database is refused.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from cacs_ray.data.files import read_json, sha256_file
from cacs_ray.errors import InputError
from cacs_ray.manifest import verify_bundle
from cacs_ray.tracking.store import (
    default_uri,
    experiment_id,
    mlflow_module,
    open_client,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

DEFAULT_MODEL = "creative-selector"

_EXPERIMENT = "releases"
_DIGEST_TAG = "manifest_sha256"
_ORIGIN = ("dataset", "dataset_digest", "warm_started_from", "refreshed_from")
_REPORT = "report.json"
_MAX_TAG = 4000
_ABOUT = (
    "Bundles that serve: selector, ranker, features and calibration in one directory. "
    f"`{CHAMPION}` is what serving shall use, `{CHALLENGER}` the newest, `{PREVIOUS}` "
    "the champion before."
)


@dataclass(frozen=True, slots=True)
class Release:
    """One registered bundle."""

    version: str
    bundle_id: str
    tags: Mapping[str, str]


class Registry:
    """The versions of one model.

    Args:
        uri: as for `Tracker.open`.
        model: name of the registered model; one per dataset, see `model_name`.
    """

    def __init__(self, uri: str | None = None, model: str = DEFAULT_MODEL) -> None:
        self.uri = uri or default_uri()
        self.model = model
        with self._reachable():
            self._client = open_client(self.uri)

    def register(
        self,
        bundle: Path | str,
        *,
        report: Path | None = None,
        run_id: str | None = None,
        tags: Mapping[str, str] = {},
    ) -> Release:
        """Store a bundle as a new version and call it the challenger.

        Args:
            bundle: directory of the bundle; it is verified first and copied.
            report: its report.json, kept beside it for later comparisons.
            run_id: MLflow's id of the run that made it; without one, a run that
                only holds the files is made.
            tags: kept with the version, for example the dataset's digest.

        Returns:
            The version. A bundle that is registered already keeps its version.

        Raises:
            InputError: the bundle is damaged, or MLflow cannot be reached; the
                bundle itself stays where it is, and the call can be repeated.
        """
        root = Path(bundle)
        manifest = verify_bundle(root)
        bundle_id = str(manifest["bundle_id"])
        digest = sha256_file(root / "manifest.json")
        with self._reachable():
            known = self._version_with(digest)
            if known is None:
                own = {"bundle_id": bundle_id, _DIGEST_TAG: digest}
                origin = _lineage(manifest)
                known = self._store(root, run_id, {**origin, **tags, **own})
                if report is not None:
                    self._client.log_artifact(known.run_id, str(report))
            self._client.set_registered_model_alias(
                self.model, CHALLENGER, str(known.version)
            )
        return _release(known)

    def tag(self, version: str, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version, for example why it was refused; None removes one."""
        with self._reachable():
            for name, value in tags.items():
                if value is None:
                    self._client.delete_model_version_tag(self.model, version, name)
                    continue
                self._client.set_model_version_tag(
                    self.model, version, name, value[:_MAX_TAG]
                )

    def describe(self, version: str, note: str) -> None:
        """Say in Markdown what a version is, for who looks at its page."""
        with self._reachable():
            self._client.update_model_version(self.model, version, note)

    def attach(self, version: str, file: Path) -> None:
        """Keep a file with a version, among the artifacts of its run."""
        with self._reachable():
            kept = self._client.get_model_version(self.model, version)
            self._client.log_artifact(str(kept.run_id), str(file))

    def promote(self, version: str) -> None:
        """Make a version the champion; the old one becomes `previous`."""
        with self._reachable():
            old = self._by_alias(CHAMPION)
            if old is not None and str(old.version) != version:
                self._set_alias(PREVIOUS, str(old.version))
            self._set_alias(CHAMPION, version)

    def roll_back(self) -> Release:
        """Make the previous version the champion again; they change places.

        Raises:
            InputError: there is no previous version.
        """
        with self._reachable():
            previous, champion = self._by_alias(PREVIOUS), self._by_alias(CHAMPION)
            if previous is None:
                raise InputError(
                    "there is no previous version to roll back to",
                    source=self.uri,
                    field=self.model,
                    rule="previous_version",
                )
            self._set_alias(CHAMPION, str(previous.version))
            if champion is not None:
                self._set_alias(PREVIOUS, str(champion.version))
        return _release(previous)

    def find(self, alias: str = CHAMPION) -> Release | None:
        """Return the version with an alias, None if there is none."""
        with self._reachable():
            found = self._by_alias(alias)
        return None if found is None else _release(found)

    def fetch(self, release: Release, cache: Path) -> Path:
        """Return a directory with a version's files, checked against the database.

        Args:
            release: what to fetch.
            cache: where downloaded bundles are kept, one directory each; files
                that lie on this machine already are used where they are. They
                must not be changed.

        Raises:
            InputError: a file or the manifest is not what was registered.
        """
        cached = cache / release.bundle_id
        with self._reachable():
            version = self._client.get_model_version(self.model, release.version)
            path = _local_path(version.source)
            if path is None:
                path = cached if cached.is_dir() else self._download(version, cached)
        verify_bundle(path)
        if sha256_file(path / "manifest.json") != release.tags[_DIGEST_TAG]:
            raise InputError(
                "the manifest is not the one that was registered",
                source=str(path / "manifest.json"),
                rule="digest",
            )
        return path

    def report(self, release: Release) -> dict[str, object] | None:
        """Return the report that was kept with a version, None if there is none."""
        with self._reachable(), tempfile.TemporaryDirectory() as directory:
            version = self._client.get_model_version(self.model, release.version)
            names = [f.path for f in self._client.list_artifacts(str(version.run_id))]
            if _REPORT not in names:
                return None
            file = self._client.download_artifacts(
                str(version.run_id), _REPORT, directory
            )
            kept: dict[str, object] = read_json(file)
            return kept

    def _store(
        self, root: Path, run_id: str | None, tags: Mapping[str, str]
    ) -> "ModelVersion":
        """Copy the files to the run's artifacts and create the version."""
        client = self._client
        if run_id is None:
            run_id = client.create_run(
                experiment_id(client, self.uri, _EXPERIMENT),
                run_name=f"bundle {tags['bundle_id']}",
                tags={"stage": "export"},
            ).info.run_id
            client.set_terminated(run_id)
        client.log_artifacts(run_id, str(root), "bundle")
        source = f"{client.get_run(run_id).info.artifact_uri}/bundle"
        if not client.search_registered_models(f"name = '{self.model}'"):
            client.create_registered_model(self.model, description=_ABOUT)
        return client.create_model_version(
            self.model, source, run_id=run_id, tags=dict(tags)
        )

    def _version_with(self, digest: str) -> "ModelVersion | None":
        found = self._client.search_model_versions(
            f"name = '{self.model}' and tags.{_DIGEST_TAG} = '{digest}'"
        )
        return found[0] if found else None

    def _by_alias(self, alias: str) -> "ModelVersion | None":
        exceptions = mlflow_module("exceptions")
        try:
            return self._client.get_model_version_by_alias(self.model, alias)
        except exceptions.MlflowException as error:
            # A missing model and a missing alias have different codes.
            if error.error_code in (
                "INVALID_PARAMETER_VALUE",
                "RESOURCE_DOES_NOT_EXIST",
            ):
                return None
            raise

    def _set_alias(self, alias: str, version: str) -> None:
        self._client.set_registered_model_alias(self.model, alias, version)

    def _download(self, version: "ModelVersion", target: Path) -> Path:
        """Download a version's files aside and move them to `target`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as aside:
            got = mlflow_module("artifacts").download_artifacts(
                artifact_uri=version.source, dst_path=aside, tracking_uri=self.uri
            )
            Path(got).rename(target)
        return target

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn MLflow's refusals into one line for the caller."""
        exceptions = mlflow_module("exceptions")
        try:
            yield
        except exceptions.MlflowException as error:
            raise InputError(
                f"MLflow refused or does not answer: {error}"[:400],
                source=self.uri,
                rule="registry_reachable",
            ) from error


def model_name(manifest: Mapping[str, Any]) -> str:
    """Return the registered model that a bundle is a version of.

    >>> model_name({"lineage": {"dataset": "summer sale"}})
    'creative-selector-summer-sale'
    """
    dataset = str(manifest.get("lineage", {}).get("dataset", ""))
    slug = re.sub(r"[^\w.-]+", "-", dataset)
    return f"{DEFAULT_MODEL}-{slug}" if slug else DEFAULT_MODEL


def _lineage(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return a bundle's origin as tags: data and parent.

    The rest (windows, versions of the code) is in manifest and model card; in a list
    of versions it would hide what the gate said.
    """
    lineage = manifest.get("lineage", {})
    return {name: str(lineage[name])[:_MAX_TAG] for name in _ORIGIN if name in lineage}


def _release(version: "ModelVersion") -> Release:
    tags = dict(version.tags)
    return Release(str(version.version), tags.get("bundle_id", ""), tags)


def _local_path(source: str | None) -> Path | None:
    """Return the directory of a source on this machine, None if it is elsewhere."""
    address = urlparse(source or "")
    if address.scheme not in ("", "file"):
        return None
    return Path(unquote(address.path))
