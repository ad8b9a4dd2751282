// The page of decisions: a request in, one or two answers out, side by side.

import {
  ask, bar, count, facts, labelsOf, make, milliseconds, money, percent, picture, plural,
  problemNotice,
} from "./common.js";

const ORDERS = {
  cacs: "select, then rank",
  post_rank: "rank, then select",
  parallel: "both side by side",
  rank_only: "no choice: the first creative",
  random: "any creative, then rank",
  popular: "best CTR in training, then rank",
  thompson: "drawn by evidence, then rank",
  teacher: "ranker scores every creative",
};
const STAGES = {
  queue: "wait for a place",
  straight: "tried all at once, in vain",
  prepare: "look up ads and creatives",
  selector: "score creatives",
  ranker: "predict CTR",
  teacher: "score creatives by the ranker",
  total: "all of it",
};
// What a stage is for, as parts of the rung that an answer names.
const PARTS = { selector: "choice", teacher: "choice", ranker: "ctr" };
const RUNGS = {
  popular_creative: "creatives were chosen by their smoothed CTR in training",
  default_creative: "creatives were chosen by their smoothed CTR in training, the first live one where it tells none apart",
  last_ctr: "pCTR is what the ranker lately gave for each creative",
  training_ctr: "pCTR is the last one known of each creative, or its smoothed CTR in training",
};
// What the scores of a list are, by order; a fallen stage's are smoothed CTRs.
const SCORES = {
  cacs: "selector score", post_rank: "selector score", parallel: "selector score",
  teacher: "ranker's score", popular: "smoothed CTR", thompson: "drawn CTR",
};
const FAILURES = {
  late: "was late", busy: "was busy", failed: "failed", not_finite: "answered no numbers",
  other_release: "held another release",
};
const OTHER_REASONS = {
  arm_not_held: "the release of the user's arm is not held, so the live arm answered",
};
const RULES = {
  unknown_ad: "the release does not know this ad",
  unknown_creative: "a creative that was asked for is not live, or not of this ad",
  creative_not_live: "no creative of it is live at that moment",
  creative_excluded: "the operator's controls leave no creative of it",
};
const FIRST_CREATIVES = 5;

const byId = (id) => document.getElementById(id);
let request = null;
let asked = 0;

start();

async function start() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    decide();
  });
  byId("json").addEventListener("input", readJson);
  for (const id of ["order-a", "release-a", "order-b", "release-b"]) {
    byId(id).addEventListener("change", decide);
  }
  try {
    const [starting, releases] = await Promise.all([ask("page/examples"), ask("v1/releases")]);
    showReleases(releases);
    showExamples(starting);
  } catch (error) {
    byId("examples").replaceChildren();
    byId("answer").replaceChildren(problemNotice(error));
  }
}

function showReleases(releases) {
  byId("live").replaceChildren("live release ", make("code", {}, releases.live));
  const option = (value, text) => make("option", { value }, text);
  const orders = releases.orders.map((order) => option(order, `${order}: ${ORDERS[order] ?? ""}`));
  const held = releases.held.map((release) => option(
    release, release === releases.live ? `live: ${release}` : release));
  byId("order-a").replaceChildren(option("", "as configured"), ...orders);
  byId("release-a").replaceChildren(...held);
  byId("release-a").value = releases.live;
  byId("order-b").replaceChildren(
    option("none", "nothing"), option("", "as configured"), ...orders.map((o) => o.cloneNode(true)));
  byId("release-b").replaceChildren(...held.map((o) => o.cloneNode(true)));
  byId("release-b").value = releases.live;
}

function showExamples({ examples, fields }) {
  const cards = examples.map((example) => {
    const size = example.request.candidates.length;
    const card = make("button", { type: "button", className: "example" },
      make("strong", {}, example.name),
      make("span", {}, example.note),
      make("span", { className: "quiet" }, plural(size, "candidate ad")));
    card.addEventListener("click", () => {
      for (const other of cards) other.setAttribute("aria-pressed", String(other === card));
      take(compact(example.request), fields);
      decide();
    });
    card.setAttribute("aria-pressed", "false");
    return card;
  });
  byId("examples").replaceChildren(...cards);
  if (cards.length) cards[0].click();
}

// Leave out what is not said, so that the JSON stays short.
function compact(value) {
  const kept = Object.entries(value).filter(([, one]) => one !== null);
  return Object.fromEntries(kept.map(([name, one]) => [
    name, Array.isArray(one) && name === "candidates" ? one.map(compact) : one]));
}

function take(taken, fields) {
  request = taken;
  const inputs = [
    field("Visitor", "text", request.user_id ?? "", "unknown", (text) => set("user_id", text || undefined)),
    ...fields.filter(({ kind }) => ["category", "id", "text", "number"].includes(kind)).map(
      ({ column, kind }) => field(
        column.replaceAll("_", " "), kind === "number" ? "number" : "text",
        request.features?.[column] ?? "", "unknown",
        (text) => setFeature(column, kind, text))),
    field("Time", "text", request.request_ts ?? "", "now", (text) => set("request_ts", text || undefined)),
    field("Slots", "number", request.num_slots ?? "", "as configured",
      (text) => set("num_slots", text === "" ? undefined : Number(text))),
  ];
  byId("fields").replaceChildren(...inputs);
  writeJson();
}

function field(name, type, value, placeholder, change) {
  const input = make("input", { type, value, placeholder });
  if (type === "number") input.step = "any";
  input.addEventListener("input", () => {
    change(input.value.trim());
    writeJson();
  });
  return make("label", {}, name, input);
}

function set(name, value) {
  request = { ...request, [name]: value };
}

function setFeature(column, kind, text) {
  const features = { ...request.features };
  if (text === "") delete features[column];
  else features[column] = kind === "number" ? Number(text) : text;
  set("features", features);
}

function writeJson() {
  byId("json").value = JSON.stringify(request, null, 2);
  byId("json-problem").hidden = true;
  byId("decide").disabled = false;
}

function readJson() {
  const problem = byId("json-problem");
  try {
    request = JSON.parse(byId("json").value);
    problem.hidden = true;
  } catch (error) {
    problem.textContent = `This is not JSON yet: ${error.message}`;
    problem.hidden = false;
  }
  byId("decide").disabled = !problem.hidden;
}

async function decide() {
  if (request === null) return;
  const mine = ++asked;
  const answer = byId("answer");
  answer.setAttribute("aria-busy", "true");
  const sides = ["a", "b"].filter((side) => byId(`order-${side}`).value !== "none");
  try {
    const answers = [];
    // One after the other: side by side they would slow each other down.
    for (const side of sides) answers.push(await preview(side));
    for (const one of answers) {
      const isFallen = /(^|,)(selector|teacher)_/.test(one.fallback_reason ?? "");
      const scores = isFallen ? "smoothed CTR" : SCORES[one.policy] ?? "score";
      for (const ad of one.candidates) ad.scores = scores;
    }
    const ads = answers.flatMap((one) => one.candidates.map((ad) => ad.ad_id));
    const labels = await labelsOf(ads);
    if (mine === asked) answer.replaceChildren(...drawAnswers(answers, labels));
  } catch (error) {
    if (mine === asked) answer.replaceChildren(problemNotice(error));
  } finally {
    if (mine === asked) answer.removeAttribute("aria-busy");
  }
}

function preview(side) {
  const query = new URLSearchParams();
  const order = byId(`order-${side}`).value;
  const release = byId(`release-${side}`).value;
  if (order) query.set("order", order);
  if (release) query.set("release", release);
  return ask(`v1/preview?${query}`, request);
}

function drawAnswers(answers, labels) {
  const summaries = make("div", { className: `pair of-${answers.length}` },
    answers.map((one, index) => summary(one, index, answers.length)));
  const parts = [summaries];
  if (answers.length === 2) parts.push(difference(answers));
  const rejected = new Map(answers.flatMap((one) => one.rejected.map((r) => [r.ad_id, r.rule])));
  if (rejected.size) parts.push(rejections(rejected));
  const rows = adRows(answers);
  if (!rows.length) {
    parts.push(make("p", { className: "notice" }, "No candidate ad could take part: nothing is shown."));
    return parts;
  }
  const [shown, others] = [true, false].map((isShown) => rows.filter((row) => row.isShown === isShown));
  parts.push(...shown.map((row) => adRow(row, labels, true)));
  if (others.length) {
    const rest = make("details", { className: "rest" },
      make("summary", {}, `${plural(others.length, "ad")} not shown`));
    // Drawn when opened: hundreds of ads may have lost.
    rest.addEventListener("toggle", () => {
      if (rest.open && rest.childElementCount === 1) {
        rest.append(...others.map((row) => adRow(row, labels, false)));
      }
    });
    parts.push(rest);
  }
  return parts;
}

// One row per ad, with what each side says of it; best places first.
function adRows(answers) {
  const ids = [...new Set(answers.flatMap((one) => one.candidates.map((ad) => ad.ad_id)))];
  const place = (ad) => (ad && ad.slot !== null ? ad.slot : Infinity);
  return ids.map((adId) => {
    const ads = answers.map((one) => one.candidates.find((ad) => ad.ad_id === adId) ?? null);
    return {
      adId,
      ads,
      isShown: ads.some((ad) => place(ad) < Infinity),
      places: ads.map(place),
      ecpm: ads[0]?.ecpm_micros ?? 0,
    };
  }).sort((one, other) => compare(one.places[0], other.places[0])
    || compare(one.places[1] ?? 0, other.places[1] ?? 0) || other.ecpm - one.ecpm);
}

const compare = (one, other) => (one === other ? 0 : one < other ? -1 : 1);

function summary(answer, index, size) {
  const shown = answer.candidates.filter((ad) => ad.slot !== null).length;
  const { total, ...stages } = answer.seconds;
  const longest = Math.max(total ?? 0, ...Object.values(stages));
  const times = [...Object.entries(stages), ["total", total]].filter(([, s]) => s !== undefined);
  return make("article", { className: "summary" },
    make("h2", {}, size > 1 ? make("span", { className: `side ${"ab"[index]}` }, "AB"[index]) : null,
      make("span", {}, answer.policy),
      make("span", { className: "quiet" }, ` ${ORDERS[answer.policy] ?? ""}`)),
    make("p", {}, `${count(shown)} of ${plural(answer.candidates.length, "candidate ad")} shown, by release `,
      make("code", {}, answer.release), "."),
    rung(answer),
    make("dl", { className: "times" }, times.flatMap(([stage, seconds]) => [
      make("dt", {}, stage, make("span", { className: "quiet" }, ` ${STAGES[stage] ?? ""}`)),
      make("dd", {}, bar(seconds / longest, stage === "total" ? "total" : ""),
        make("span", { className: "number" }, milliseconds(seconds)))])));
}

function rung(answer) {
  if (!answer.is_fallback) {
    return make("p", { className: "rung good" }, "Top rung: every stage answered in time.");
  }
  const reasons = (answer.fallback_reason ?? "").split(",").map((reason) => {
    const stage = Object.keys(PARTS).find((name) => reason.startsWith(`${name}_`));
    if (!stage) return OTHER_REASONS[reason] ?? reason;
    const how = reason.slice(stage.length + 1);
    const reached = answer.rung?.[PARTS[stage]];
    return `the ${stage} ${FAILURES[how] ?? how}${reached ? `: ${RUNGS[reached] ?? reached} (${reached})` : ""}`;
  });
  return make("p", { className: "rung warn" }, `Lower rung: ${reasons.join("; ")}.`);
}

function difference([first, second]) {
  const other = new Map(second.candidates.map((ad) => [ad.ad_id, ad]));
  const pairs = first.candidates.filter((ad) => other.has(ad.ad_id)).map((ad) => [ad, other.get(ad.ad_id)]);
  const creatives = pairs.filter(([a, b]) => a.creative_id !== b.creative_id).length;
  const slots = pairs.filter(([a, b]) => a.slot !== b.slot).length;
  if (creatives + slots === 0) {
    return make("p", { className: "notice" }, "A and B decide alike: the same creatives in the same slots.");
  }
  return make("p", { className: "notice" },
    `A and B choose another creative for ${count(creatives)} of ${plural(pairs.length, "ad")}, and `,
    `give ${slots === 1 ? "1 ad" : `${count(slots)} ads`} another slot.`);
}

function rejections(rejected) {
  return make("div", { className: "notice" },
    make("p", {}, make("strong", {}, `${plural(rejected.size, "ad")} took no part`)),
    make("ul", {}, [...rejected].map(([adId, rule]) => make("li", {},
      make("code", {}, adId), ` ${RULES[rule] ?? rule}`))));
}

function adRow({ adId, ads }, labels, isOpen) {
  const label = labels(adId);
  const known = ads.filter((ad) => ad !== null);
  const differ = known.length === 2 && known[0].creative_id !== known[1].creative_id;
  return make("article", { className: "ad" },
    make("header", {},
      make("h3", {}, make("a", { href: `evidence?ad=${encodeURIComponent(adId)}`, title: "evidence of its creatives" },
        `Ad ${adId}`)),
      facts(label),
      differ ? make("span", { className: "tag differs" }, "other creative") : null),
    make("div", { className: `pair of-${ads.length}` },
      ads.map((ad, index) => (ad ? adSide(ad, label, ads.length > 1 ? index : null, isOpen)
        : make("p", { className: "quiet" }, "took no part")))));
}

function adSide(ad, label, index, isOpen) {
  const title = label.titles[ad.creative_id];
  const figures = [
    ["pCTR", percent(ad.pctr), "calibrated click probability in slot 0"],
    ["Bid", `${money(ad.bid_micros)} / click`, "what a click may cost"],
    ["eCPM", money(ad.ecpm_micros), "1,000 × pCTR × bid: the ads' order"],
    ["Price", ad.price_micros === null ? "not shown" : `${money(ad.price_micros)} / click`,
      "what a click will cost"],
    ["Propensity", percent(ad.propensity), "probability of this creative, given its ad and request"],
  ];
  const chosen = make("div", { className: "chosen" },
    picture(ad.creative_id, title, 132),
    make("div", {},
      make("p", { className: "places" },
        index === null ? null : make("span", { className: `side ${"ab"[index]}` }, "AB"[index]),
        slotTag(ad.slot)),
      make("p", { className: "title" }, title || ad.creative_id),
      title ? make("p", { className: "quiet" }, ad.creative_id) : null));
  const numbers = make("dl", { className: "figures" }, figures.map(([name, value, meaning]) =>
    make("div", { title: meaning }, make("dt", {}, name), make("dd", {}, value))));
  return make("div", { className: "ad-side" },
    make("div", { className: "outcome" }, chosen, numbers), creativeList(ad, label, isOpen));
}

function slotTag(slot) {
  if (slot === null) return make("span", { className: "tag" }, "not shown");
  return make("span", { className: "tag slot" }, slot === 0 ? "slot 0 · best" : `slot ${slot}`);
}

function creativeList(ad, label, isOpen) {
  const scores = ad.creatives.map((one) => one.selector_score).filter((score) => score !== null);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const share = (score) => (high > low ? 0.06 + 0.94 * ((score - low) / (high - low)) : 1);
  const strength = (one) => one.selector_score ?? one.probability;
  const sorted = [...ad.creatives].sort((one, other) =>
    (other.creative_id === ad.creative_id) - (one.creative_id === ad.creative_id)
    || strength(other) - strength(one));
  const items = sorted.map((one) => creativeItem(one, ad, label, share));
  const list = make("ol", { className: "creatives" }, items.slice(0, FIRST_CREATIVES));
  const heads = make("div", { className: "heads quiet", ariaHidden: "true" },
    make("span", {}), make("span", {}, scores.length ? ad.scores : ""),
    make("span", { className: "chance" }, "chance"));
  const parts = [make("summary", {}, plural(items.length, "creative")), heads, list];
  const hidden = items.slice(FIRST_CREATIVES);
  if (hidden.length) {
    const more = make("button", { type: "button", className: "more" }, `${count(hidden.length)} more`);
    more.addEventListener("click", () => {
      list.append(...hidden);
      more.remove();
      hidden[0].tabIndex = -1;
      hidden[0].focus();
    });
    parts.push(more);
  }
  return make("details", { className: "options", open: isOpen }, parts);
}

function creativeItem(one, ad, label, share) {
  const isChosen = one.creative_id === ad.creative_id;
  const title = label.titles[one.creative_id];
  const score = one.selector_score;
  return make("li", { className: isChosen ? "is-chosen" : "" },
    picture(one.creative_id, title, 48),
    make("div", { className: "what" },
      make("span", { className: "name" }, title || one.creative_id, " ",
        isChosen ? make("span", { className: "tag chosen-tag" }, "✓ chosen") : null),
      make("span", { className: "quiet" }, one.impressions > 0
        ? `${plural(one.clicks, "click")} in ${plural(one.impressions, "impression")}, ${percent(one.clicks / one.impressions)}`
        : "never shown in training")),
    make("div", { className: "score", title: `${ad.scores}: an order inside this ad` },
      score === null ? make("span", { className: "quiet" }, "no score")
        : [bar(share(score)), make("span", { className: "number" }, score.toFixed(3))]),
    make("div", { className: "number chance", title: "probability of being chosen" }, percent(one.probability)));
}
