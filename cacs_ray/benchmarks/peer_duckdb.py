"""The same validation, join and encoding as one DuckDB script.

python peer_duckdb.py DATASET OUT BOUNDS_JSON NUM_THREADS

Fits the columns of the simulated market, the only dataset it knows: impressions
have no vectors and no candidate lists (it stops when they do). Rows may be written
in any order; entity tables keep theirs.
"""

import json
import sys
import time
from pathlib import Path

ENTITIES = """
CREATE TEMP TABLE ads AS
SELECT row_number() OVER (ORDER BY n) AS ad_row, * EXCLUDE n FROM (
  SELECT *, file_row_number AS n, row_number() OVER
    (PARTITION BY ad_id ORDER BY file_row_number) AS copy
  FROM read_parquet('{root}/ads.parquet', file_row_number = true)
  WHERE ad_id IS NOT NULL AND (price IS NULL OR isnan(price) OR isfinite(price)))
WHERE copy = 1;

CREATE TEMP TABLE creatives AS
SELECT row_number() OVER (ORDER BY n) AS creative_row, * EXCLUDE n FROM (
  SELECT c.*, a.ad_row, c.file_row_number AS n, row_number() OVER
    (PARTITION BY creative_id ORDER BY c.file_row_number) AS copy
  FROM read_parquet('{root}/creatives.parquet', file_row_number = true) c
  JOIN ads a USING (ad_id)
  WHERE creative_id IS NOT NULL
    AND (live_until_ts IS NULL OR live_from_ts IS NULL
         OR live_until_ts > live_from_ts)
    AND (image_embedding IS NULL OR (len(image_embedding) = 32
         AND list_bool_and(list_transform(image_embedding,
             lambda x: x IS NOT NULL AND isfinite(x))))))
WHERE copy = 1;

CREATE TEMP TABLE users AS
SELECT row_number() OVER (ORDER BY n) AS user_row, * EXCLUDE n FROM (
  SELECT *, file_row_number AS n, row_number() OVER
    (PARTITION BY user_id ORDER BY file_row_number) AS copy
  FROM read_parquet('{root}/users.parquet', file_row_number = true)
  WHERE user_id IS NOT NULL)
WHERE copy = 1;

COPY (SELECT * EXCLUDE (ad_row, copy) FROM ads)
  TO '{out}/ads.parquet' (COMPRESSION zstd);
COPY (SELECT * EXCLUDE (creative_row, ad_row, copy) FROM creatives)
  TO '{out}/creatives.parquet' (COMPRESSION zstd);
COPY (SELECT * EXCLUDE (user_row, copy) FROM users)
  TO '{out}/users.parquet' (COMPRESSION zstd);
"""

VALIDATION = """
CREATE TEMP TABLE judged AS
SELECT i.*, a.ad_row, c.creative_row, CASE
  WHEN request_id IS NULL OR request_ts IS NULL OR i.ad_id IS NULL
    OR i.creative_id IS NULL OR slot IS NULL OR is_clicked IS NULL
    THEN 'missing_required'
  WHEN a.ad_row IS NULL THEN 'unknown_ad'
  WHEN c.creative_row IS NULL THEN 'unknown_creative'
  WHEN c.ad_row <> a.ad_row THEN 'creative_of_other_ad'
  WHEN slot < 0 THEN 'bad_slot'
  WHEN propensity IS NOT NULL
    AND (isnan(propensity) OR propensity <= 0 OR propensity > 1)
    THEN 'bad_propensity'
  WHEN bid_micros <= 0 THEN 'bad_bid'
  WHEN weight IS NOT NULL AND (NOT isfinite(weight) OR weight <= 0)
    THEN 'bad_weight'
  WHEN request_ts < coalesce(c.live_from_ts, '-infinity')
    OR request_ts >= coalesce(c.live_until_ts, 'infinity')
    THEN 'creative_not_live'
  WHEN request_ts < '2000-01-01 00:00:00+00' OR request_ts >= '2100-01-01 00:00:00+00'
    THEN 'timestamp_out_of_range' END AS rule
FROM read_parquet('{root}/impressions/*.parquet',
                  filename = true, file_row_number = true) i
LEFT JOIN ads a ON a.ad_id = i.ad_id
LEFT JOIN creatives c ON c.creative_id = i.creative_id;

CREATE TEMP TABLE repeated AS
SELECT request_id, ad_id, min((filename, file_row_number)) AS earliest
FROM judged GROUP BY request_id, ad_id HAVING count(*) > 1;

UPDATE judged SET rule = 'duplicate_impression' FROM repeated r
WHERE judged.request_id = r.request_id AND judged.ad_id = r.ad_id
  AND (judged.filename, judged.file_row_number) <> r.earliest
  AND (rule IS NULL OR rule NOT IN ('missing_required', 'unknown_ad',
       'unknown_creative', 'creative_of_other_ad'));

COPY (SELECT request_id, request_ts, user_id, ad_id, creative_id, slot, is_clicked,
  bid_micros, propensity, candidate_creative_ids, weight, policy, device
  FROM judged WHERE rule IS NULL)
  TO '{out}/accepted.parquet' (COMPRESSION zstd);
COPY (SELECT * EXCLUDE (ad_row, creative_row) FROM judged WHERE rule IS NOT NULL)
  TO '{out}/rejected.parquet' (COMPRESSION zstd);
"""

FIT = """
CREATE TEMP VIEW training AS
SELECT *, coalesce(weight, 1.0) AS w FROM judged WHERE rule IS NULL
  AND epoch_us(request_ts) >= {train_from} AND epoch_us(request_ts) < {train_until};
CREATE TEMP TABLE user_counts AS
  SELECT user_id, sum(w) AS w FROM training GROUP BY user_id;
CREATE TEMP TABLE ad_counts AS SELECT ad_id, sum(w) AS w FROM training GROUP BY ad_id;
CREATE TEMP TABLE creative_counts AS
  SELECT creative_id, sum(w) AS w, sum(w * is_clicked::INT) AS clicks
  FROM training GROUP BY creative_id;
CREATE TEMP TABLE weighted_users AS
  SELECT u.*, n.w FROM users u LEFT JOIN user_counts n USING (user_id);
CREATE TEMP TABLE weighted_ads AS
  SELECT a.*, n.w FROM ads a LEFT JOIN ad_counts n USING (ad_id);
COPY creative_counts TO '{out}/creative_counts.parquet';
"""

VOCABULARIES = {
    "user": "SELECT user_id AS value, w FROM weighted_users",
    "age_band": "SELECT age_band AS value, w FROM weighted_users",
    "region": "SELECT region AS value, w FROM weighted_users",
    "topic": "SELECT unnest(recent_categories) AS value, w FROM weighted_users "
    "UNION ALL SELECT category, w FROM weighted_ads",
    "ad": "SELECT ad_id AS value, w FROM weighted_ads",
    "advertiser": "SELECT advertiser_id AS value, w FROM weighted_ads",
    "creative": "SELECT creative_id AS value, w FROM creative_counts",
    "device": "SELECT device AS value, w FROM training",
}

VOCABULARY = """
CREATE TEMP TABLE v_{name} AS
SELECT value, w, row_number() OVER (ORDER BY w DESC, value)::INT AS index
FROM (SELECT value, sum(w) AS w FROM ({source}) WHERE value IS NOT NULL
      GROUP BY value HAVING sum(w) >= 1.0);
COPY v_{name} TO '{out}/v_{name}.parquet';
"""

ENCODE_ENTITIES = """
CREATE TEMP TABLE price AS
SELECT sum(price * w) / sum(w) AS mean, sqrt(greatest(
  sum(price * price * w) / sum(w) - (sum(price * w) / sum(w)) ** 2, 0.0)) AS scale
FROM weighted_ads WHERE isfinite(price);
CREATE TEMP TABLE image AS SELECT sqrt(avg(x * x)) AS scale
FROM (SELECT unnest(image_embedding)::DOUBLE AS x FROM creatives);

COPY (SELECT user_row, coalesce(i.index, 0) AS user_id, coalesce(b.index, 0) AS age,
    coalesce(r.index, 0) AS region, l.recent
  FROM users u LEFT JOIN v_user i ON i.value = u.user_id
  LEFT JOIN v_age_band b ON b.value = u.age_band
  LEFT JOIN v_region r ON r.value = u.region
  LEFT JOIN (SELECT user_row, list(coalesce(v.index, 0) ORDER BY place)[:20] AS recent
    FROM (SELECT user_row, unnest(recent_categories) AS value,
            generate_subscripts(recent_categories, 1) AS place FROM users) x
    LEFT JOIN v_topic v USING (value) GROUP BY user_row) l USING (user_row)
  ORDER BY user_row)
  TO '{out}/encoded_users.parquet' (COMPRESSION uncompressed);
COPY (SELECT ad_row, coalesce(i.index, 0) AS ad_id, coalesce(c.index, 0) AS category,
    coalesce(s.index, 0) AS advertiser,
    greatest(-10, least(10, (price - (SELECT mean FROM price))
      / (SELECT scale FROM price)))::FLOAT AS price
  FROM ads a LEFT JOIN v_ad i ON i.value = a.ad_id
  LEFT JOIN v_topic c ON c.value = a.category
  LEFT JOIN v_advertiser s ON s.value = a.advertiser_id ORDER BY ad_row)
  TO '{out}/encoded_ads.parquet' (COMPRESSION uncompressed);
COPY (SELECT creative_row, ad_row, coalesce(i.index, 0) AS creative_id,
    list_transform(image_embedding,
      lambda x: (x / image.scale)::FLOAT) AS image
  FROM creatives c CROSS JOIN image LEFT JOIN v_creative i ON i.value = c.creative_id
  ORDER BY creative_row)
  TO '{out}/encoded_creatives.parquet' (COMPRESSION uncompressed);
"""

VERSIONS = """
CREATE TEMP TABLE moments AS
SELECT DISTINCT ad_row, moment FROM (
  SELECT ad_row, '-infinity'::TIMESTAMPTZ AS moment FROM ads
  UNION ALL SELECT ad_row, live_from_ts FROM creatives WHERE live_from_ts IS NOT NULL
  UNION ALL SELECT ad_row, live_until_ts FROM creatives
    WHERE live_until_ts IS NOT NULL);
CREATE TEMP TABLE versions AS
SELECT row_number() OVER (ORDER BY ad_row, moment) AS list_row, * FROM (
  SELECT m.ad_row, m.moment,
    list(c.creative_row ORDER BY c.creative_row) FILTER (c.creative_row IS NOT NULL)
      AS members
  FROM moments m LEFT JOIN creatives c ON c.ad_row = m.ad_row
    AND coalesce(c.live_from_ts, '-infinity') <= m.moment
    AND coalesce(c.live_until_ts, 'infinity') > m.moment
  GROUP BY m.ad_row, m.moment);
COPY (SELECT * FROM versions ORDER BY list_row)
  TO '{out}/lists.parquet' (COMPRESSION uncompressed);
"""

ENCODE = """
COPY (SELECT coalesce(u.user_row, 0)::INT AS user_row, j.ad_row::INT AS ad_row,
    v.list_row::INT AS list_row,
    (list_position(v.members, j.creative_row) - 1)::INT AS shown_index,
    slot, is_clicked::INT::FLOAT AS label, coalesce(weight, 1.0)::FLOAT AS weight,
    coalesce(propensity, 'nan')::FLOAT AS propensity, epoch_us(request_ts) AS ts,
    coalesce(bid_micros, 0) AS bid, hash(request_id) AS request_hash,
    coalesce(d.index, 0)::INT AS device
  FROM judged j ASOF JOIN versions v
    ON v.ad_row = j.ad_row AND j.request_ts >= v.moment
  LEFT JOIN users u ON u.user_id = j.user_id
  LEFT JOIN v_device d ON d.value = j.device
  WHERE rule IS NULL AND epoch_us(request_ts) >= {start}
    AND epoch_us(request_ts) < {end})
  TO '{out}/{window}.parquet' (COMPRESSION uncompressed);
"""


def main() -> None:
    """Run the script on a dataset and say how long it took."""
    import duckdb  # only the peers' environment has it

    root, out, bounds, num_threads = sys.argv[1:]
    windows = json.loads(bounds)
    Path(out).mkdir(parents=True)
    database = duckdb.connect()
    database.execute(f"SET threads = {int(num_threads)}; SET TimeZone = 'UTC'")
    # Writers need not keep the order of rows, which is faster.
    database.execute("SET preserve_insertion_order = false")
    database.execute(f"SET temp_directory = '{out}/spill'")
    started = time.perf_counter()
    names = {"root": root, "out": out}
    database.execute(ENTITIES.format(**names))
    database.execute(VALIDATION.format(**names))
    found = database.execute("SELECT count(candidate_creative_ids) FROM judged")
    if (found.fetchone() or [0])[0]:
        raise SystemExit("this script does not know candidate lists")
    train = windows["train"]
    database.execute(FIT.format(train_from=train[0], train_until=train[1], **names))
    for name, source in VOCABULARIES.items():
        database.execute(VOCABULARY.format(name=name, source=source, **names))
    database.execute(ENCODE_ENTITIES.format(**names))
    database.execute(VERSIONS.format(**names))
    for window, (start, end) in windows.items():
        database.execute(ENCODE.format(window=window, start=start, end=end, **names))
    seconds = time.perf_counter() - started
    counted = database.execute("SELECT rule, count(*) FROM judged GROUP BY rule")
    by_rule = dict(counted.fetchall())
    line = {"seconds": seconds, "accepted": by_rule.pop(None, 0), "rejected": by_rule}
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
