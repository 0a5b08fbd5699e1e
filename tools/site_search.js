"use strict";
// Searches in the page itself: a browser lets no worker and no request read the site from a disk.
(() => {
  const box = document.getElementById("mkdocs-search-query");
  const shown = document.getElementById("mkdocs-search-results");
  if (!box) return;

  const load = (name) => new Promise((done, failed) => {
    const script = document.createElement("script");
    Object.assign(script, { src: `${base_url}/search/${name}`, onload: done, onerror: failed });
    document.head.append(script);
  });

  const article = (page) => {
    const made = document.createElement("article");
    const link = Object.assign(document.createElement("a"), { href: `${base_url}/${page.location}`, textContent: page.title });
    const heading = document.createElement("h3");
    heading.append(link);
    made.append(heading, Object.assign(document.createElement("p"), { textContent: page.text.slice(0, 200) }));
    return made;
  };

  load("lunr.js").then(() => load("index.js")).then(() => {
    const { config, docs } = window.searchIndex;
    lunr.tokenizer.separator = new RegExp(config.separator);
    const pages = new Map(docs.map((page) => [page.location, page]));
    const index = lunr(function () {
      this.ref("location");
      this.field("title", { boost: 10 });
      this.field("text");
      docs.forEach((page) => this.add(page));
    });

    // Words, and beginnings of words; none of lunr's own syntax, in which --store is a word to be left out.
    const find = (words) => index.query((query) => {
      for (const word of lunr.tokenizer(words).map(String).filter(Boolean)) {
        query.term(word, { boost: 10 });
        query.term(word, { wildcard: lunr.Query.wildcard.TRAILING });
      }
    });
    const search = () => {
      const words = box.value.trim();
      const found = words.length < config.min_search_length ? [] : find(words);
      shown.replaceChildren(...found.slice(0, 50).map((result) => article(pages.get(result.ref))));
      if (!found.length) shown.textContent = words ? shown.dataset.noResultsText : "";
    };
    box.addEventListener("input", search);
    box.value = new URLSearchParams(location.search).get("q") ?? "";
    search();
  });
})();
