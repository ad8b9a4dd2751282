// The page of evidence: what is known of each creative of one ad.

import {
  ask, count, facts, labelsOf, make, makeSvg, percent, picture, plural, problemNotice,
} from "./common.js";

const SOURCES = {
  training: "In the training window",
  live: "In the live log",
};

const byId = (id) => document.getElementById(id);
let asked = 0;

start();

async function start() {
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    find(byId("text").value);
  });
  window.addEventListener("popstate", () => show(wanted(), false));
  try {
    const releases = await ask("v1/releases");
    byId("live").replaceChildren("live release ", make("code", {}, releases.live));
  } catch (error) {
    byId("evidence").replaceChildren(problemNotice(error));
    return;
  }
  const adId = wanted();
  byId("text").value = adId ?? "";
  await find(adId ?? "", adId);
}

const wanted = () => new URLSearchParams(location.search).get("ad");

// List the ads that fit, and show one of them at once.
async function find(text, adId) {
  const found = byId("found");
  try {
    const { ad_ids: adIds } = await ask(`page/search?${new URLSearchParams({ text })}`);
    found.replaceChildren(...adIds.map((one) => {
      const button = make("button", { type: "button" }, one);
      button.dataset.ad = one;
      button.addEventListener("click", () => show(one, true));
      return button;
    }));
    if (adId || adIds.length) await show(adId ?? adIds[0], !adId && text !== "");
    else {
      byId("evidence").replaceChildren(
        make("p", { className: "notice" }, `No ad or creative of the live release is called “${text}”.`));
    }
  } catch (error) {
    found.replaceChildren();
    byId("evidence").replaceChildren(problemNotice(error));
  }
}

async function show(adId, isNew) {
  if (!adId) return;
  const mine = ++asked;
  if (isNew) history.pushState(null, "", `evidence?ad=${encodeURIComponent(adId)}`);
  for (const button of byId("found").children) {
    button.setAttribute("aria-pressed", String(button.dataset.ad === adId));
  }
  const place = byId("evidence");
  place.setAttribute("aria-busy", "true");
  try {
    const evidence = await ask(`page/evidence?${new URLSearchParams({ ad_id: adId })}`);
    const label = (await labelsOf([adId]))(adId);
    if (mine !== asked) return;
    showRule(evidence.rule);
    place.replaceChildren(
      make("article", { className: "ad" },
        make("header", {}, make("h2", {}, `Ad ${adId}`), facts(label)),
        make("p", { className: "quiet" }, `${plural(Object.keys(label.titles).length, "creative")} in the catalogue.`)),
      ...evidence.tables.map((table) => drawTable(table, label)));
  } catch (error) {
    if (mine === asked) place.replaceChildren(problemNotice(error));
  } finally {
    if (mine === asked) place.removeAttribute("aria-busy");
  }
}

function showRule(rule) {
  byId("rule").replaceChildren(...Object.entries(rule).flatMap(([state, text]) => [
    make("dt", {}, stateTag(state)), make("dd", {}, text)]));
}

const stateTag = (state) => make("span", { className: `state ${state}` }, state);

function drawTable(table, label) {
  const parts = [
    make("header", {}, make("h3", {}, SOURCES[table.source] ?? table.source),
      make("span", { className: "quiet" }, table.note))];
  if (table.creatives.length) {
    const highest = Math.max(...table.creatives.map((one) => one.high ?? one.ctr ?? 0), table.ctr ?? 0, 1e-6);
    const names = ["Creative", "State", "CTR", `0 – ${percent(highest)}`, "Clicks", "Impressions"];
    parts.push(make("table", { className: "table" },
      make("thead", {}, make("tr", {}, names.map((name, index) => make("th", {
        scope: "col", className: index > 3 ? "num" : "" }, name)))),
      make("tbody", {}, table.creatives.map((one) => drawCreative(one, table, label, highest)))));
    if (table.ctr !== null) {
      parts.push(make("p", { className: "quiet" },
        `The dashed line is the CTR of the ad's creatives together, ${percent(table.ctr)}.`));
    }
  }
  return make("article", { className: "ad" }, parts);
}

function drawCreative(one, table, label, highest) {
  const title = label.titles[one.creative_id];
  const interval = one.low === null || one.high === null ? "unknown"
    : `${percent(one.low)} to ${percent(one.high)}`;
  return make("tr", {},
    make("td", {}, make("div", { className: "who" }, picture(one.creative_id, title, 56),
      make("div", {}, make("span", {}, title || one.creative_id), make("br"),
        make("span", { className: "quiet" }, title ? one.creative_id : "",
          one.is_live ? null : " not live now")))),
    make("td", {}, stateTag(one.state), make("span", { className: "quiet why" }, one.reason)),
    make("td", { className: "number" }, one.ctr === null ? "–" : percent(one.ctr), make("br"),
      make("span", { className: "quiet" }, interval)),
    make("td", { className: "plot-cell" }, plot(one, table.ctr, highest)),
    cell("Clicks", count(one.clicks)),
    cell("Impressions", count(one.impressions)));
}

function cell(name, text) {
  const made = make("td", { className: "num" }, text);
  made.dataset.name = name;
  return made;
}

// The interval on an axis from 0 to the highest bound of the table.
function plot(one, mean, highest) {
  const drawn = makeSvg("svg", {
    class: "plot", "aria-hidden": "true" });
  const x = (ctr) => `${(3 + 94 * (ctr / highest)).toFixed(1)}%`;
  drawn.append(makeSvg("line", { class: "axis", x1: x(0), x2: x(highest), y1: 13, y2: 13 }));
  if (mean !== null) {
    drawn.append(makeSvg("line", { class: "mean", x1: x(mean), x2: x(mean), y1: 1, y2: 25 }));
  }
  if (one.low !== null && one.high !== null) {
    drawn.append(makeSvg("line", { class: "range", x1: x(one.low), x2: x(one.high), y1: 13, y2: 13 }));
  }
  if (one.ctr !== null) drawn.append(makeSvg("circle", { class: "dot", cx: x(one.ctr), cy: 13, r: 4 }));
  return drawn;
}
