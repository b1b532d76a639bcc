// What a definition may hold, as forms show it. The service validates; this only says how to ask.

const HINT = "{{input.x}} and {{steps.name.output}} stand for the run's input and what earlier steps made.";
const DOCUMENT_HINT = "{{document.name}} and {{document.text}} are the document. " + HINT;

const model = (hint) => [
  { name: "prompt", label: "Prompt", type: "text", hint, rows: 4 },
  { name: "system", label: "System message", type: "text", more: true },
  { name: "model", label: "Model", type: "string", more: true, hint: "Left empty: the service's own." },
  { name: "max_tokens", label: "Longest answer, in tokens", type: "number", more: true },
];
const documents = { name: "documents", label: "Documents", type: "documents" };
const parallel = {
  name: "parallel",
  label: "How many at once",
  type: "number",
  more: true,
  hint: "1 to 64; 4 if left empty.",
};

const AGENT = [
  { name: "instructions", label: "Instructions", type: "text", rows: 4, hint: HINT },
  { name: "tools", label: "Tools", type: "tools" },
  { name: "max_turns", label: "Most turns", type: "number", hint: "1 to 99; 8 if left empty." },
  { name: "agents", label: "Sub-agents", type: "agents", more: true },
  { name: "model", label: "Model", type: "string", more: true },
  { name: "max_tokens", label: "Longest answer, in tokens", type: "number", more: true },
  { name: "max_total_tokens", label: "Most tokens in all", type: "number", more: true },
  { name: "output_schema", label: "JSON schema of the answer", type: "json", more: true },
];

/** The fields of a sub-agent. */
export const SUB_AGENT = [
  { name: "name", label: "Name", type: "string" },
  { name: "description", label: "What it is for", type: "string", hint: "The agent above chooses by this." },
  ...AGENT,
  { name: "timeout_seconds", label: "Time limit, in seconds", type: "number", more: true },
];

/** Each kind of step: label, what it does, its fields, and what a new one begins with. */
export const STEPS = {
  model: {
    label: "Ask a model",
    about: "One question, one streamed answer.",
    fields: model(HINT),
    start: { prompt: "" },
  },
  agent: {
    label: "Agent",
    about: "A model that works in turns, with tools and sub-agents.",
    fields: [{ name: "input", label: "Task", type: "text", rows: 3, hint: HINT }, ...AGENT],
    start: { input: "", instructions: "", tools: [] },
  },
  analyze_documents: {
    label: "Analyse documents",
    about: "Asks the model about each document, several at once.",
    fields: [documents, ...model(DOCUMENT_HINT), parallel],
    start: { documents: { prefix: "" }, prompt: "" },
  },
  compare_documents: {
    label: "Compare documents",
    about: "Asks the model about several documents together.",
    fields: [documents, ...model(HINT)],
    start: { documents: { prefix: "" }, prompt: "" },
  },
  fetch_urls: {
    label: "Fetch web pages",
    about: "Fetches pages, several at once.",
    fields: [{ name: "urls", label: "Addresses", type: "lines", hint: "One a line. " + HINT }, parallel],
    start: { urls: [""] },
  },
  file_sync: {
    label: "Bring in files",
    about: "Takes dropped files into the documents.",
    fields: [
      { name: "prefix", label: "Only files whose path begins with", type: "string" },
      { name: "into", label: "Put before their names", type: "string" },
      {
        name: "only_changed",
        label: "Which files",
        type: "select",
        options: [
          ["", "As the trigger says"],
          [true, "Those that changed"],
          [false, "All"],
        ],
        more: true,
      },
      parallel,
    ],
    start: {},
  },
  tool: {
    label: "Call a tool",
    about: "One call of a built-in tool, or of your own.",
    fields: [
      { name: "tool", label: "Tool", type: "tool" },
      { name: "arguments", label: "Arguments, as JSON", type: "json", hint: HINT },
    ],
    start: { tool: "echo", arguments: { value: "" } },
  },
  write_artifact: {
    label: "Write a file",
    about: "An artifact of the run, to open and download.",
    fields: [
      { name: "path", label: "File name", type: "string" },
      { name: "content", label: "Content", type: "text", rows: 3, hint: HINT },
    ],
    start: { path: "result.md", content: "" },
  },
  notify: {
    label: "Notify",
    about: "An event, and the workflow's webhooks.",
    fields: [
      { name: "subject", label: "Subject", type: "string" },
      { name: "message", label: "Message", type: "text", rows: 3, hint: HINT },
    ],
    start: { subject: "", message: "" },
  },
  child_run: {
    label: "Run another workflow",
    about: "Waits for it; its output is this step's.",
    fields: [
      { name: "workflow_id", label: "Workflow", type: "workflow" },
      { name: "input", label: "Input, as JSON", type: "json", hint: HINT },
    ],
    start: { workflow_id: "" },
  },
};

/** What every step takes. */
export const COMMON = [
  { name: "timeout_seconds", label: "Time limit, in seconds", type: "number" },
  { name: "retries.max", label: "Tries again after a failure", type: "number", hint: "0 to 10; 2 if left empty." },
  {
    name: "retries.backoff_seconds",
    label: "Wait before that, in seconds",
    type: "number",
    hint: "Doubles each time; 5 if left empty.",
  },
  {
    name: "on_error",
    label: "If it fails",
    type: "select",
    options: [
      ["", "The run fails"],
      ["continue", "The run goes on"],
    ],
  },
  {
    name: "on_cancelled",
    label: "If only this step is stopped",
    type: "select",
    options: [
      ["", "The run goes on"],
      ["stop", "The run stops"],
    ],
  },
];

/** The kinds of triggers. */
export const TRIGGERS = {
  manual: { label: "By hand", fields: [], start: {} },
  schedule: {
    label: "On a schedule",
    start: { every: { value: 1, unit: "days" } },
    fields: [{ name: "every", label: "Schedule", type: "schedule" }],
  },
  file_sync: {
    label: "When files arrive",
    start: { prefix: "" },
    fields: [
      { name: "prefix", label: "Only files whose path begins with", type: "string" },
      { name: "debounce_seconds", label: "Wait until nothing has arrived for, in seconds", type: "number" },
      {
        name: "run_when",
        label: "A file that comes again unchanged",
        type: "select",
        options: [
          ["", "Starts nothing"],
          ["always", "Starts a run"],
        ],
      },
    ],
  },
};

/** The workflow's own fields. */
export const GENERAL = [
  { name: "name", label: "Name", type: "string" },
  { name: "description", label: "Description", type: "text", rows: 2 },
];
export const SETTINGS = [
  { name: "enabled", label: "On: its trigger starts runs", type: "check" },
  {
    name: "grace_seconds",
    label: "Grace, in seconds",
    type: "number",
    hint: "How long a cancelled run waits for work that has not stopped; 0 to 300.",
  },
  {
    name: "after_cancel",
    label: "After a cancel, the schedule",
    type: "select",
    options: [
      ["next_slot", "goes on with its next time"],
      ["skip_next", "skips one time"],
      ["disable", "is turned off"],
    ],
  },
];
