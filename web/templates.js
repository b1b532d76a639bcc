// Workflows to start from: name, what it does, definition.

export const TEMPLATES = [
  [
    "Ask a model",
    "One question, one answer, kept as a file.",
    {
      name: "Ask a model",
      steps: [
        { kind: "model", name: "ask", prompt: "Explain {{input.topic}} to a newcomer, in 200 words." },
        { kind: "write_artifact", name: "save", path: "answer.md", content: "{{steps.ask.output}}" },
      ],
    },
  ],
  [
    "Review of documents",
    "Summarises each document, then writes one review.",
    {
      name: "Review of documents",
      steps: [
        {
          kind: "analyze_documents",
          name: "read",
          documents: { prefix: "reports/" },
          prompt: "Summarise {{document.name}}:\n{{document.text}}",
        },
        { kind: "model", name: "write", prompt: "Write a review of:\n{{steps.read.output}}" },
        { kind: "write_artifact", name: "save", path: "review.md", content: "{{steps.write.output}}" },
        { kind: "notify", name: "tell", subject: "The review is ready", message: "See review.md" },
      ],
    },
  ],
  [
    "Web watch",
    "Fetches pages each morning and tells what is new.",
    {
      name: "Web watch",
      trigger: { kind: "schedule", cron: "0 7 * * 1-5", time_zone: "Europe/Paris" },
      steps: [
        { kind: "fetch_urls", name: "pages", urls: ["https://example.org/"] },
        { kind: "model", name: "digest", prompt: "What is worth knowing in these pages?\n{{steps.pages.output}}" },
        { kind: "notify", name: "tell", subject: "This morning", message: "{{steps.digest.output}}" },
      ],
    },
  ],
  [
    "Researcher",
    "An agent with tools and a fact checker.",
    {
      name: "Researcher",
      steps: [
        {
          kind: "agent",
          name: "research",
          input: "{{input.question}}",
          instructions: "Answer from the documents. Name your sources.",
          tools: ["search_documents", "read_document"],
          max_turns: 8,
          agents: [
            {
              name: "checker",
              description: "Checks one claim against the documents.",
              instructions: "Say whether the claim holds, and where it is written.",
              tools: ["search_documents", "read_document"],
            },
          ],
        },
        { kind: "write_artifact", name: "save", path: "answer.md", content: "{{steps.research.output}}" },
      ],
    },
  ],
];
