// A program that somebody writes with the types generated from /openapi.json; test_typescript.py compiles it.
import type { components, paths } from "./openapi.d.ts";
type Signal = components["schemas"]["Signal"];
type Event = components["schemas"]["StreamEvent"];
export function rsi(signal: Signal): number | undefined {
  const value = signal.values.rsi;
  return typeof value === "number" ? value : undefined;
}
export function told(event: Event): string {
  switch (event.event) {
    case "signal": return event.data.symbol;
    case "trader": return event.data.state;
    case "delivery": return event.data.state;
    case "reset": return String(event.data.resume_from);
    case "bye": return event.data.reason;
  }
}
const made: paths["/api/v1/traders"]["post"]["requestBody"]["content"]["application/json"] = { name: "n", filter: "f" };
const problem: components["schemas"]["Problem"]["type"] = "https://vyx.dev/problems/quota-exceeded";
console.log(made, problem);
