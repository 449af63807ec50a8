"use strict";

// In a tab of Airflow's, its theme holds, also while it changes.

const outside = window !== parent ? parent.document.documentElement : null;
const around = () => (outside ? (outside.classList.contains("dark") ? "dark" : "light") : "");
const themed = () => {
  document.documentElement.style.colorScheme = around() || "light dark";
  dispatchEvent(new Event("theme"));
};
if (outside) new MutationObserver(themed).observe(outside, { attributeFilter: ["class"] });
themed();

