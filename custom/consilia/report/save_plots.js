"use strict";
// Below each plot two buttons: the drawing as it is in the page (SVG), or as dots, three for each of its own (PNG).
document.querySelectorAll("figure[data-name]").forEach(function (figure) {
  const image = figure.querySelector("img");
  const bar = document.createElement("div");
  bar.className = "save";
  function save(blob, suffix) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = figure.dataset.name + suffix;
    link.click();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
  }
  function button(text, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = "Save as " + text;
    made.addEventListener("click", act);
    bar.append(made);
  }
  button("SVG", function () {
    const bytes = Uint8Array.from(atob(image.src.split(",")[1]), function (letter) { return letter.charCodeAt(0); });
    save(new Blob([bytes], { type: "image/svg+xml" }), ".svg");
  });
  button("PNG", function () {
    const canvas = document.createElement("canvas");
    canvas.width = 3 * image.naturalWidth;
    canvas.height = 3 * image.naturalHeight;
    const pen = canvas.getContext("2d");
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(function (blob) { save(blob, ".png"); }, "image/png");
  });
  figure.append(bar);
});
