// Times, sizes and names as people read them: in the reader's own zone and way of writing.

import { now } from "./api.js";
import { h } from "./dom.js";

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayClock = new Intl.DateTimeFormat(undefined, {
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const ago = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });

/** Milliseconds as "0.4 s", "12 s", "3 min 04 s", "2 h 05 min". */
export function duration(ms) {
  if (!Number.isFinite(ms)) return "";
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${pad(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${pad((seconds % 3600) / 60)} min`;
}

/** A short duration to the millisecond, a longer one as `duration` says it. */
export const precise = (ms) => (ms < 1000 ? `${Math.max(0, Math.round(ms))} ms` : duration(ms));

const pad = (value) => String(Math.floor(value)).padStart(2, "0");

/** How long something took, or has taken until now; "" if it has not begun. */
export function took(one) {
  if (!one.started_at) return "";
  return duration((one.ended_at ? Date.parse(one.ended_at) : now()) - Date.parse(one.started_at));
}

/** A moment: the time today, else with the day. */
export function moment(at) {
  const date = new Date(at);
  return (date.toDateString() === new Date().toDateString() ? clock : dayClock).format(date);
}

/** A moment as an element that tells all of it when pointed at. */
export function time(at) {
  return at ? h("time", { datetime: at, title: full.format(new Date(at)) }, moment(at)) : "";
}

/** A moment relative to now: "in 5 minutes", "2 hours ago". */
export function relative(at) {
  const seconds = (Date.parse(at) - now()) / 1000;
  for (const [unit, size] of [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
  ]) {
    if (Math.abs(seconds) >= size) return ago.format(Math.round(seconds / size), unit);
  }
  return ago.format(Math.round(seconds), "second");
}

/** Bytes as "12 KB". */
export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1048576 ? `${(bytes / 1024).toFixed(1)} KB` : `${(bytes / 1048576).toFixed(1)} MB`;
}

/** A count with its noun. */
export const count = (n, one, many = `${one}s`) => `${n.toLocaleString()} ${n === 1 ? one : many}`;

/** A name of the API ("fetch_urls", "run.failed") as words. */
export function words(name) {
  const said = name.replaceAll(/[._]/g, " ");
  return said[0].toUpperCase() + said.slice(1);
}

/** What a trigger is, in words. */
export function triggerWords(trigger) {
  if (trigger.kind === "file_sync")
    return trigger.prefix ? `When files arrive in ${trigger.prefix}` : "When files arrive";
  if (trigger.kind !== "schedule") return "By hand";
  if (trigger.cron) return `Cron ${trigger.cron}${trigger.time_zone ? `, ${trigger.time_zone}` : ""}`;
  const { value, unit } = trigger.every;
  return value === 1 ? `Every ${unit.slice(0, -1)}` : `Every ${value} ${unit}`;
}

/** Who or what started a run. */
export function startedBy(run) {
  const by = run.requested_by?.name;
  const how = {
    schedule: "by its schedule",
    file_sync: "by files",
    child_run: "by another run",
    request: "by request",
  };
  return how[run.trigger.kind] || (by ? `by ${by}` : "by hand");
}
