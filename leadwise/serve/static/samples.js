/** An ECG as the server answers it: its samples in millivolts, and its description in words. */

import { millivolts } from "./api.js";
import { number } from "./dom.js";
import { leadRemark } from "./paper.js";

/** Return an answer of the server with the samples of each lead in millivolts as `mv`. */
export function withSamples(ecg) {
  for (const lead of ecg.leads) lead.mv = millivolts(lead.samples);
  const n = Math.max(0, ...ecg.leads.map((lead) => lead.mv?.length ?? 0));
  ecg.drawn_s = n ? n / ecg.rate_hz : ecg.duration_s; // of a long recording only a part is sent
  return ecg;
}

/** Return a description of an ECG for readers who cannot see the tracing. */
export function describe(ecg) {
  const usual = ecg.leads.filter((lead) => leadRemark(lead) === "").map((lead) => lead.name);
  const rest = ecg.leads.filter((lead) => leadRemark(lead) !== "").map((lead) => `${lead.name}: ${leadRemark(lead)}`);
  const rate = ecg.measurements?.heart_rate_bpm;
  const parts = [`ECG of ${number(ecg.duration_s, 1)} s at ${number(ecg.rate_hz)} Hz`];
  if (rate) parts.push(`heart rate ${number(rate)} per minute`);
  parts.push(
    usual.length === ecg.leads.length
      ? "all twelve leads recorded, signal good"
      : `recorded and good: ${usual.join(", ") || "none"}`,
  );
  return `${parts.join("; ")}. ${rest.join("; ")}`;
}
