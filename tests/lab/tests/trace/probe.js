(async () => {
  const found = { errors: [] };
  addEventListener("error", (event) => found.errors.push(String(event.message)));
  const began = performance.now();
  const wait = () => new Promise((done) => setTimeout(done, 20));
  const visible = (one) => one.getClientRects().length > 0;

  // Colours: the least contrast of any text on what is behind it (WCAG 2.1).
  const channels = (text) => text.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = channels(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const leastContrast = () => {
    let least = 21;
    for (const one of document.querySelectorAll("body *:not(script, style, noscript, #probe)")) {
      const text = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
      if (!text || !visible(one) || one.disabled) continue;
      const style = getComputedStyle(one);
      const svg = one.namespaceURI.endsWith("svg");
      if (svg && one.localName !== "text") continue;
      const [one1, two] = [luminance(channels(svg ? style.fill : style.color)), luminance(behind(one))];
      least = Math.min(least, (Math.max(one1, two) + 0.05) / (Math.min(one1, two) + 0.05));
    }
    return least;
  };

  found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  found.status = document.querySelector("[role=status]").textContent;
  found.rows = document.querySelectorAll("#list tbody tr").length;

  // The filter.
  const kind = document.getElementById("kind");
  const data = JSON.parse(document.getElementById("data").textContent);
  kind.value = "1";
  kind.dispatchEvent(new Event("change"));
  found.silenced = document.querySelector("[role=status]").textContent.split(" ")[0];
  found.silencedWanted = String(data.connections.filter((one) => one[3] > 0).length);
  kind.value = "0";
  kind.dispatchEvent(new Event("change"));

  // The connection with most events, by its link, as Enter would.
  const button = [...document.querySelectorAll("#list thead button")].find((one) => one.textContent === "Events");
  button.click();
  button.click();
  const link = document.querySelector("#list tbody a");
  link.focus();
  if (document.activeElement !== link) found.errors.push("a link of the list takes no focus");
  link.click();
  await wait();
  found.focus = document.activeElement.id;
  found.events = document.querySelectorAll("#detail tbody tr").length;
  found.drawings = document.querySelectorAll("#detail tbody td.drawn svg").length;
  found.contrast = leastContrast();
  found.milliseconds = performance.now() - began;

  // Names and keyboard.
  const named = (one) => (one.getAttribute("aria-label") || one.textContent || "").trim()
    || (one.id && document.querySelector("label[for=" + one.id + "]"));
  const controls = [...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")];
  found.unnamed = controls.filter((one) => !named(one)).map((one) => one.outerHTML);
  found.unreachable = controls.filter((one) => one.tabIndex < 0).map((one) => one.outerHTML);
  found.unnamed.push(...[...document.querySelectorAll("svg:not([aria-hidden=true])")]
    .filter((one) => !one.getAttribute("aria-label")).map((one) => one.outerHTML.slice(0, 99)));
  found.outside = performance.getEntriesByType("resource").map((one) => one.name);
  found.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  [...document.querySelectorAll("#detail a")].pop().click();
  await wait();
  found.back = document.activeElement.id;
  document.body.append(Object.assign(document.createElement("pre"), { id: "probe", textContent: JSON.stringify(found) }));
})();
