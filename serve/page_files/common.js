// What both pages share: asking the service, drawing elements, writing numbers.

export class Refusal extends Error {
  constructor(status, report) {
    super(report?.error ?? `status ${status}`);
    this.status = status;
    this.problems = report?.problems ?? [];
  }
}

export async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refusal(0, { error: "The service does not answer. Is it running?" });
  }
  let content = null;
  try {
    content = await answer.json();
  } catch {
    if (answer.ok) throw new Refusal(answer.status, { error: "The answer is not JSON." });
  }
  if (!answer.ok) {
    const known = content && typeof content.error === "string" ? content : null;
    throw new Refusal(answer.status, known ?? { error: busyOr(answer.status) });
  }
  return content;
}

function busyOr(status) {
  return status === 503
    ? "The service is busy; try again in a moment."
    : `The service answered with status ${status}.`;
}

// An element with properties and children; text is never read as HTML.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

export function makeSvg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function picture(creativeId, title, side) {
  return make("img", {
    src: `page/creatives/${encodeURIComponent(creativeId)}/picture`,
    alt: title ? `Creative ${creativeId}: ${title}` : `Creative ${creativeId}`,
    width: side,
    height: side,
    loading: "lazy",
    decoding: "async",
  });
}

export function problemNotice(error) {
  const notice = make("div", { className: "notice bad", role: "alert" },
    make("p", {}, make("strong", {}, error.message)));
  if (error.problems?.length) {
    notice.append(make("ul", {}, error.problems.map((problem) => make("li", {},
      problem.field ? make("code", {}, problem.field) : null,
      problem.field ? " " : null,
      problem.message))));
  }
  return notice;
}

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const finer = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

export const count = (number) => plain.format(number);
export const percent = (share) => `${share >= 0.1 || share === 0
  ? (100 * share).toFixed(1) : (100 * share).toFixed(2)} %`;
export const money = (micros) => {
  const amount = micros / 1e6;
  return amount !== 0 && Math.abs(amount) < 0.01 ? finer.format(amount) : fine.format(amount);
};
export const milliseconds = (seconds) => {
  const ms = 1e3 * seconds;
  return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
};
export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

// A bar whose length is a share of its track.
export function bar(share, kind = "") {
  const fill = make("span", { className: "fill" });
  fill.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  return make("span", { className: `bar ${kind}`, ariaHidden: "true" }, fill);
}

const labels = new Map();

// How ads look: facts and titles of their creatives; asked for once.
export async function labelsOf(adIds) {
  const missing = [...new Set(adIds)].filter((adId) => !labels.has(adId));
  for (let start = 0; start < missing.length; start += 500) {
    const asked = missing.slice(start, start + 500);
    for (const label of await ask("page/ads", { ad_ids: asked })) labels.set(label.ad_id, label);
  }
  return (adId) => labels.get(adId) ?? { ad_id: adId, facts: {}, titles: {} };
}

export function facts(label) {
  return make("span", { className: "facts" }, Object.entries(label.facts).map(
    ([name, value]) => make("span", { className: "fact" },
      make("span", { className: "quiet" }, `${name.replaceAll("_", " ")} `), value)));
}
