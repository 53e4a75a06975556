// Validates processes against process specifications, as openEO's own JavaScript clients do.
//
// node validate.js < {"specs": [...], "processes": {"name": process, ...}, "arguments": {...}}
// prints {"name": ["message", ...], ...}; no message means valid. The arguments are values of
// parameters without default; a reference to any other parameter is a fault.
const { ProcessGraph, ProcessRegistry } = require("@openeo/js-processgraphs");

async function findFaults(process, registry, values) {
  const graph = new ProcessGraph(process, registry);
  graph.setArguments(values);
  graph.allowUndefinedParameters(false);
  try {
    const errors = await graph.validate(false);
    return errors.getAll().map((error) => error.message);
  } catch (error) {
    return [error.message];
  }
}

async function main() {
  let text = "";
  for await (const part of globalThis.process.stdin) text += part;
  const { specs, processes, arguments: values } = JSON.parse(text);
  const registry = new ProcessRegistry(specs);
  const faults = {};
  for (const [name, process] of Object.entries(processes)) {
    faults[name] = await findFaults(process, registry, values || {});
  }
  console.log(JSON.stringify(faults));
}

main();
