// New orders as they are made, newest first. The browser comes back by itself where the connection ends.
const list = document.querySelector("ol");
const state = document.querySelector("#state");
const feed = new EventSource("/orders/events");

feed.addEventListener("open", () => {
  state.textContent = "Waiting for orders.";
});
feed.addEventListener("error", () => {
  state.textContent = "Reconnecting.";
});
feed.addEventListener("order", ({ data }) => {
  const order = JSON.parse(data);
  const line = document.createElement("li");
  const total = document.createElement("output");
  total.textContent = (order.total_cents / 100).toFixed(2);
  line.append(`Order ${order.id} of user ${order.user_id}`, total);
  list.prepend(line);
  while (list.children.length > 20) {
    list.lastElementChild.remove();
  }
});
