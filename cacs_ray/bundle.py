"""The bundle: all that leaves training, in one directory, and how it is opened.

    manifest.json                        digest of every file, the release id
    config.json spec.json vocabularies/  how it was made, how rows are encoded
    catalogue/ entities/                 creatives, ads and users, encoded
    selector/ ranker/ teacher/           weights (safetensors) and their config
    creative_vectors.safetensors         the selector's vector of every creative
    calibration.json                     logits of the ranker -> pCTR
    golden.json                          requests with the scores they must get
    profile.json                         shares of every field's values in training

Evaluation, gate, serving and replay open this directory and nothing else. No
file of it can run code: safetensors, JSON and Parquet only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cacs_ray.data.files import read_arrays, read_json, read_parquet
from cacs_ray.errors import InputError
from cacs_ray.features.batch import (
    FeatureTensors,
    as_index,
    as_tensors,
    creative_features,
    take_arrays,
    take_rows,
)
from cacs_ray.features.catalogue import Catalogue
from cacs_ray.features.context import Context, Entities
from cacs_ray.features.encode import ContentEncoder, encode_rows, with_blank_row
from cacs_ray.features.kept import ENTITY_SIDES, FittedFeatures, read_fitted
from cacs_ray.features.profile import Profile
from cacs_ray.features.request_text import encode_request_text
from cacs_ray.manifest import read_manifest, verify_bundle
from cacs_ray.models.calibration import Calibration
from cacs_ray.models.plain_selector import PlainSelector
from cacs_ray.models.ranker import Ranker
from cacs_ray.models.saved import load_ranker, load_selector
from cacs_ray.models.selector import Selector, catalogue_vectors
from cacs_ray.schema import Column, Side

PROFILE = "profile.json"
_BLOCK = 16_384
_CATALOGUE_BLOCK = 2_048
"""Rows that are gathered at once, while other threads wait for the interpreter."""


@dataclass(frozen=True)
class Predictor:
    """An open bundle: rows in, scores out. Torch on the CPU, no Ray."""

    bundle_id: str
    manifest: Mapping[str, Any]
    fitted: FittedFeatures
    entities: Entities
    selector: Selector
    ranker: Ranker
    teacher: Ranker
    creative_vectors: Tensor
    """float32 [K + 1, D]: V(c) by catalogue row; row 0 is zeros."""
    calibration: Calibration

    @property
    def catalogue(self) -> Catalogue:
        """What may be shown."""
        return self.fitted.catalogue

    @classmethod
    def load(cls, path: str | Path, *, is_verified: bool = False) -> "Predictor":
        """Open a bundle after checking the digest of every file.

        Args:
            path: the bundle's directory.
            is_verified: True skips the digests, for a caller that has just
                checked them.

        Raises:
            InputError: not a bundle, a file is missing, changed or unreadable
                (the file is named).
        """
        root = Path(path)
        return cls.of_files(
            root, read_manifest(root) if is_verified else verify_bundle(root)
        )

    @classmethod
    def of_files(cls, root: Path, manifest: Mapping[str, Any]) -> "Predictor":
        """Open the files of a bundle by a manifest that its caller answers for.

        Raises:
            InputError: a file is unreadable, or the manifest tells of another spec.
        """
        fitted = read_fitted(root)
        if fitted.spec.fingerprint != manifest["spec_fingerprint"]:
            raise InputError(
                "the feature spec is not the one that was trained on",
                source=str(root / "spec.json"),
                rule="spec_fingerprint",
            )
        arrays = {
            name: read_arrays(root / "entities" / f"{name}.safetensors")
            for name in ENTITY_SIDES
        }
        user_ids = read_parquet(root / "entities" / "user_ids.parquet")
        counts = {name: v.counts for name, v in fitted.vocabularies.items()}
        vectors = read_arrays(root / "creative_vectors.safetensors")["vectors"]
        return cls(
            bundle_id=manifest["bundle_id"],
            manifest=manifest,
            fitted=fitted,
            entities=Entities(**arrays, user_index=_index(user_ids)),
            selector=load_selector(root / "selector", fitted.spec, counts),
            ranker=load_ranker(root / "ranker", fitted.spec, counts),
            teacher=load_ranker(root / "teacher", fitted.spec, counts),
            creative_vectors=torch.from_numpy(vectors),
            calibration=Calibration.model_validate(
                read_json(root / "calibration.json")
            ),
        )

    def with_entities(
        self, tables: Mapping[Side, pa.Table], content: ContentEncoder
    ) -> "Predictor":
        """Return this predictor over other creatives, ads and users.

        The tables are encoded by the fitted spec; creatives that training saw
        keep their counts, the others are new.
        """
        encoded = {
            side: with_blank_row(
                encode_rows(
                    table,
                    self.fitted.spec,
                    self.fitted.vocabularies,
                    side,
                    content=content,
                ),
                self.fitted.spec,
                side,
            )
            for side, table in tables.items()
        }
        catalogue = Catalogue.from_tables(tables["creative"], tables["ad"])
        catalogue = catalogue.with_counts_of(self.catalogue)
        entities = Entities(
            users=encoded["user"],
            ads=encoded["ad"],
            creatives=encoded["creative"],
            user_index=_index(tables["user"].select([Column.USER_ID])),
        )
        vectors = creative_vectors(self.selector, entities, catalogue)
        return replace(
            self,
            fitted=replace(self.fitted, catalogue=catalogue),
            entities=entities,
            creative_vectors=vectors,
        )

    def context(self, requests: pa.Table) -> Context:
        """Encode candidate rows (rows of one request adjacent, contract types).

        A user that is null or unknown, an undeclared or absent request column and
        an unknown ad are 'unknown', never an error.
        """
        ids = requests[Column.REQUEST_ID].combine_chunks().dictionary_encode()
        request_index = ids.indices.to_numpy().astype(np.int64)
        _, first = np.unique(request_index, return_index=True)
        heads = requests.take(first)
        user_rows = np.array(
            [
                self.entities.user_index.get(user, 0)
                for user in heads[Column.USER_ID].to_pylist()
            ],
            np.int64,
        )
        encoded = encode_rows(
            heads,
            self.fitted.spec,
            self.fitted.vocabularies,
            "request",
            content=encode_request_text,
        )
        ad_rows = self.catalogue.ad_row(requests[Column.AD_ID].to_pylist())
        return Context(
            request={
                **take_arrays(self.entities.users, user_rows),
                **take_arrays(encoded, np.arange(len(heads))),
            },
            ad=take_rows(self.entities.ads, ad_rows),
            request_index=request_index,
            ad_row=ad_rows,
            user_row=user_rows,
        )

    def selector_scores(self, context: Context, lists: np.ndarray) -> np.ndarray:
        """Score lists of creatives: gather and dot.

        Args:
            context: A candidate ads.
            lists: int [A, C] catalogue rows, 0 = padding.

        Returns:
            float32 [A, C]; the scores at padding mean nothing.
        """
        if context.is_shared:
            return self._plain_selector.score(context.request, lists, context.only_user)
        with torch.inference_mode():
            users = self.selector.user_vectors(as_tensors(context.request))
            users = users[as_index(context.request_index)]
            scores = self.selector.score(users, self.creative_vectors, as_index(lists))
            return scores.numpy()

    @cached_property
    def _plain_selector(self) -> PlainSelector:
        return PlainSelector(self.selector, self.creative_vectors, self.entities.users)

    def teacher_scores(self, context: Context, lists: np.ndarray) -> np.ndarray:
        """Score every creative of every list with the teacher: float32 [A, C]."""
        return self._rank(self.teacher, context, lists)

    def ranker_logits(
        self, context: Context, lists: np.ndarray, slot: np.ndarray | None = None
    ) -> np.ndarray:
        """Return uncalibrated logits of the serving ranker.

        Args:
            context: A candidate ads.
            lists: int [A, C] catalogue rows; 0 = creative unknown, or padding.
            slot: int [A]; None leaves the position out, as decisions do.

        Returns:
            float32 [A, C].
        """
        return self._rank(self.ranker, context, lists, slot)

    @torch.inference_mode()
    def context_part(self, context: Context) -> Tensor:
        """Return the serving ranker's part of request and ad: float32 [A, W].

        It does not depend on the choice of creatives, so that it can be had while
        the selector chooses. One row for all when no such field is read.
        """
        return self.ranker.encode_context(context.joined(slice(None)))

    def pctr(
        self,
        context: Context,
        creative_row: np.ndarray,
        context_part: Tensor | None = None,
    ) -> np.ndarray:
        """Calibrated click probability in slot 0.

        Args:
            context: A candidate ads.
            creative_row: int [A] catalogue rows; 0 asks for the ad before its
                creative is known: it then counts as the mean of its creatives.
            context_part: as of `context_part`, if it is there already.

        Returns:
            float64 [A], in (0, 1).
        """
        lists = creative_row[:, None]
        typical = None if lists.all() else self.typical_parts
        logits = self._rank(
            self.ranker, context, lists, typical=typical, context_part=context_part
        )[:, 0]
        seen = np.where(
            creative_row > 0, self.catalogue.impressions[creative_row], np.nan
        )
        return self.calibration.probability(logits, seen)

    @cached_property
    @torch.inference_mode()
    def ranker_parts(self) -> Tensor:
        """The serving ranker's part of every creative: float32 [K + 1, W], row 0 zeros.

        No request changes them, so they are computed once and then gathered.
        """
        size = len(self.catalogue.creative_ids)
        blocks = [self._creative_parts(self.ranker, np.zeros(1, np.int64))]
        for start in range(1, size, _CATALOGUE_BLOCK):
            # The ranker takes the first row for the blank creative.
            rows = np.append(0, np.arange(start, min(start + _CATALOGUE_BLOCK, size)))
            blocks.append(self._creative_parts(self.ranker, rows)[1:])
        return torch.cat(blocks)

    @cached_property
    @torch.inference_mode()
    def typical_parts(self) -> Tensor:
        """The ranker's mean creative part of each ad: float32 [ads + 1, W].

        Over the ad's creatives of the catalogue; 0 for an ad without any.
        """
        ad_row = self.catalogue.creative_ad_row.astype(np.int64)
        parts = self.ranker_parts[1:]
        sums = torch.zeros(len(self.catalogue.ad_ids), parts.shape[1])
        sums.index_add_(0, as_index(ad_row[1:]), parts)
        number = np.bincount(ad_row[1:], minlength=len(sums)).clip(min=1)
        return sums / as_index(number).unsqueeze(-1)

    @torch.inference_mode()
    def _rank(
        self,
        model: Ranker,
        context: Context,
        lists: np.ndarray,
        slot: np.ndarray | None = None,
        *,
        typical: Tensor | None = None,
        context_part: Tensor | None = None,
    ) -> np.ndarray:
        """Score lists block by block; `typical` stands for unknown creatives."""
        if len(context) > _BLOCK:
            context_part = None
        scores = []
        for start in range(0, len(context), _BLOCK):
            rows = slice(start, start + _BLOCK)
            parts, index = self._listed_parts(model, lists[rows])
            if typical is not None:
                own = len(parts) + np.arange(len(index))[:, None]
                index = np.where(lists[rows] == 0, own, index)
                parts = torch.cat([parts, typical[as_index(context.ad_row[rows])]])
            part = (
                model.encode_context(context.joined(rows))
                if context_part is None
                else context_part
            )
            logits = model.combine(part, parts, as_index(index))
            if slot is not None:
                logits = logits + model.position(as_index(slot[rows])).unsqueeze(-1)
            scores.append(logits.numpy())
        if not scores:
            return np.zeros(lists.shape, np.float32)
        return np.concatenate(scores)

    def _listed_parts(
        self, model: Ranker, lists: np.ndarray
    ) -> tuple[Tensor, np.ndarray]:
        """Return parts [k, W] of some creatives, the first blank, and lists of them."""
        if model is self.ranker and lists.all():
            return self.ranker_parts, lists
        distinct, index = np.unique(np.append(0, lists.ravel()), return_inverse=True)
        index = index[1:].reshape(lists.shape)
        if model is self.ranker:
            return self.ranker_parts[as_index(distinct)], index
        return self._creative_parts(model, distinct), index

    @torch.inference_mode()
    def _creative_parts(self, model: Ranker, creative_rows: np.ndarray) -> Tensor:
        """Return a ranker's part of catalogue rows, [K, W]; zero for row 0."""
        return model.encode_creatives(
            self.creative_features(creative_rows), self.creative_vectors[creative_rows]
        )

    def creative_features(self, creative_rows: np.ndarray) -> FeatureTensors:
        """creative.* and ad.* fields of catalogue rows."""
        return creative_features(
            self.entities.creatives,
            self.entities.ads,
            self.catalogue.creative_ad_row,
            creative_rows,
        )


def read_profile(root: str | Path) -> Profile:
    """Return what a bundle's training window looked like.

    Returns:
        A profile without fields for a bundle from before profiles.
    """
    path = Path(root) / PROFILE
    kept = read_json(path) if path.is_file() else {}
    return Profile.model_validate(kept)


def _index(user_ids: pa.Table) -> dict[str, int]:
    ids = user_ids[Column.USER_ID].to_pylist()
    return {user_id: row for row, user_id in enumerate(ids, start=1)}


def creative_vectors(
    selector: Selector, entities: Entities, catalogue: Catalogue
) -> Tensor:
    """Run the creative tower over a catalogue: float32 [K + 1, D], row 0 zeros."""
    features_of = partial(
        creative_features,
        entities.creatives,
        entities.ads,
        catalogue.creative_ad_row,
    )
    return catalogue_vectors(selector, features_of, len(catalogue.creative_ids))
